"""Guards that the checkpoint that loading is measured by is laid out as real ones are."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.benchmark.gang_checkpoint import (
    TextShape,
    shard_bytes,
    tensor_shapes,
    write_checkpoint,
)
from pipeline.config import ModelConfig
from pipeline.models.loading import load_model
from tests.tiny_models import write_tiny_model

SHAPE = TextShape(64, 128, 3, 4, 4, 512)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint that save_pretrained wrote, and ours after its example."""
    root = tmp_path_factory.mktemp("checkpoints")
    template = write_tiny_model("qwen2_5_vl", root / "template")
    written = write_checkpoint(root / "large", template, SHAPE)
    return template, root / "large", written


def test_names_are_those_that_save_pretrained_writes(folders):
    template, ours, _ = folders
    assert {name for name, _ in tensor_shapes(ours)} == {
        name for name, _ in tensor_shapes(template)
    }


def test_the_index_names_every_tensor_in_its_file(folders):
    _, ours, written = folders
    index = json.loads((ours / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert files == {path.name for path in ours.glob("*.safetensors")}
    assert len(files) == 3, "embeddings and vision, two layers, one layer"
    for file in files:
        with safe_open(ours / file, "pt") as tensors:
            assert {n for n, f in index["weight_map"].items() if f == file} == set(tensors.keys())
    sizes = [2 * math.prod(shape) for _, shape in tensor_shapes(ours)]
    assert index["metadata"]["total_size"] == written.num_bytes == sum(sizes)
    assert written.largest == max(sizes)


def test_transformers_loads_it(folders):
    model = load_model(ModelConfig(name=str(folders[1])), torch.device("cpu"))
    assert model.num_layers == SHAPE.num_layers
    assert model.model.lm_head.weight.shape == (SHAPE.vocab_size, SHAPE.hidden_size)
    assert model.model.dtype is torch.bfloat16


def test_a_part_is_what_a_rank_holds(folders):
    """By hand: of a layer everything is cut but its norms, o_proj and down_proj having no bias."""
    _, ours, written = folders
    assert shard_bytes(ours, 1) == written.num_bytes
    attention = 4 * 64 * 64 + 3 * 64
    cut = 3 * (attention + 3 * 64 * 128) + 512 * 64
    assert shard_bytes(ours, 4) == written.num_bytes - 2 * (cut - cut // 4)
    assert shard_bytes(ours, 4, itemsize=4) == 2 * shard_bytes(ours, 4)


def test_a_tied_head_is_a_copy_of_its_part_of_the_embeddings(tmp_path):
    """Ranks hold the head's part beside the whole embeddings; an odd vocabulary is padded."""
    tensors = {"model.embed_tokens.weight": torch.zeros(7, 4), "model.norm.weight": torch.ones(4)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert shard_bytes(tmp_path, 2) == 2 * (7 * 4 + 4 + 4 * 4)

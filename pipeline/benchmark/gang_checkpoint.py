"""A large Qwen2.5-VL checkpoint of random weights: as hubs lay it out, written layer by layer.

What it says is nothing; its files, tensor names, shapes and sizes are what loading is measured by.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.")
_HUB_NAMES = (("model.language_model.", "model."), ("model.visual.", "visual."))
_CUT = re.compile(
    r"model\.(?:language_model\.)?layers\.\d+\."
    r"(?:(?:self_attn\.[qkv]_proj|mlp\.(?:gate|up)_proj)\.(?:weight|bias)"
    r"|self_attn\.o_proj\.weight|mlp\.down_proj\.weight)"
)
_HEAD = "lm_head.weight"
_EMBEDDING = re.compile(r"model\.(?:language_model\.)?embed_tokens\.weight")
_STD = 0.02


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes of the text model."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int


LARGE = TextShape(4096, 11008, 18, 32, 8, 32_000)
"""6.9 GB in bfloat16: a scaled Qwen2.5-VL."""
SMALL = TextShape(2048, 5504, 8, 16, 4, 16_000)
"""0.9 GB in bfloat16."""


@dataclass(frozen=True, slots=True)
class CheckpointBytes:
    """``num_bytes`` of all tensors together, and of the ``largest``."""

    num_bytes: int
    largest: int


def write_checkpoint(
    folder: Path, template: Path, shape: TextShape, layers_per_file: int = 2
) -> CheckpointBytes:
    """Write a checkpoint in bfloat16; never holds more than one file of it in memory.

    ``template`` is any small Qwen2.5-VL checkpoint: tokenizer, processor and vision tower are like
    its own. The output head is not tied to the embeddings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in template.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name not in ("config.json", _INDEX):
            shutil.copy(path, folder)
    config = _config(template, shape)
    config.save_pretrained(folder)
    with init_empty_weights(include_buffers=False):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    shapes = {hub_name(name): tuple(p.shape) for name, p in model.named_parameters()}
    files: dict[int, list[str]] = {}
    for name in shapes:
        layer = _LAYER.match(name)
        files.setdefault(1 + int(layer[1]) // layers_per_file if layer else 0, []).append(name)
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, names in sorted(files.items()):
        file = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        tensors = {name: _random(shapes[name], generator) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    sizes = [2 * math.prod(each) for each in shapes.values()]
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return CheckpointBytes(sum(sizes), max(sizes))


def hub_name(name: str) -> str:
    """What checkpoints call a parameter; transformers' modules have newer names."""
    for own, stored in _HUB_NAMES:
        if name.startswith(own):
            return stored + name.removeprefix(own)
    return name


def shard_bytes(folder: Path, num_ranks: int, itemsize: int = 2) -> int:
    """What one of ``num_ranks`` ranks must hold of a checkpoint's weights, bytes.

    Its part of the decoder layers and of the output head; embeddings, norms and the vision tower
    whole. ``itemsize`` is of the dtype that is loaded.
    """
    total = 0
    has_head = False
    embedding: tuple[int, ...] | None = None
    for name, shape in tensor_shapes(folder):
        size = math.prod(shape)
        if name == _HEAD:
            has_head = True
            size = _head_part(shape, num_ranks)
        elif _CUT.fullmatch(name):
            size = -(-size // num_ranks)
        elif _EMBEDDING.fullmatch(name):
            embedding = shape
        total += size
    if not has_head and embedding is not None:  # tied: the head's part is a copy of the embedding's
        total += _head_part(embedding, num_ranks)
    return total * itemsize


def tensor_shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a checkpoint's files."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                yield name, tuple(file.get_slice(name).get_shape())


def _head_part(shape: tuple[int, ...], num_ranks: int) -> int:
    return -(-shape[0] // num_ranks) * shape[1]


def _config(template: Path, shape: TextShape) -> Any:
    config = AutoConfig.from_pretrained(template, local_files_only=True)
    text = config.text_config
    text.hidden_size = shape.hidden_size
    text.intermediate_size = shape.intermediate_size
    text.num_hidden_layers = shape.num_layers
    text.num_attention_heads = shape.num_heads
    text.num_key_value_heads = shape.num_kv_heads
    text.vocab_size = shape.vocab_size
    text.layer_types = ["full_attention"] * shape.num_layers
    half_head = shape.hidden_size // shape.num_heads // 2
    side = 3 * half_head // 8
    sections = [half_head - 2 * side, side, side]
    text.rope_parameters = {**text.rope_parameters, "mrope_section": sections}
    text.tie_word_embeddings = config.tie_word_embeddings = False
    config.vision_config.out_hidden_size = shape.hidden_size
    return config


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, _STD, generator=generator)

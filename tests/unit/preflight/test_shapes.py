"""Sizes from configs: against real parameters, real processors, and what was published."""

from pathlib import Path

import pytest
import torch
from published_models import PUBLISHED
from s3_server import S3Bucket

from pipeline.config import (
    FrameSamplingConfig,
    FrameSizeConfig,
    ModelConfig,
    PromptConfig,
    StorageConfig,
    VideoConfig,
)
from pipeline.models.loading import load_model
from pipeline.preflight.errors import PreflightUnavailableError
from pipeline.preflight.memory import kv_bytes_per_token, weights
from pipeline.preflight.model_config import sizes_of
from pipeline.preflight.prompt import longest_prompt
from pipeline.storage import storage_for
from tests.tiny_models import FAMILIES, tiny_clip, write_tiny_model

SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    """A loaded tiny model and its config entry."""
    folder = write_tiny_model(request.param, tmp_path_factory.mktemp(request.param))
    entry = ModelConfig(name=str(folder), dtype="float32")
    return load_model(entry, torch.device("cpu")), entry


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_ranks_weights_are_the_real_bytes_split_by_rule(tiny, num_ranks: int) -> None:
    loaded, entry = tiny
    sizes, _ = sizes_of(entry, StorageConfig())
    expected = dict.fromkeys(("layers", "vision", "embeddings"), 0)
    for name, parameter in loaded.model.named_parameters():
        num_bytes = parameter.nbytes
        if name.startswith("model.language_model.layers") and name.split(".")[-2] in SPLIT:
            expected["layers"] += num_bytes // num_ranks
        elif name.startswith("lm_head"):
            expected["embeddings"] += -(-len(parameter) // num_ranks) * parameter[0].nbytes
        elif "embed_tokens" in name:
            expected["embeddings"] += num_bytes
        else:
            kind = "layers" if name.startswith("model.language_model") else "vision"
            expected[kind] += num_bytes
    ours = weights(sizes, num_ranks)
    assert {kind: getattr(ours, kind) for kind in expected} == expected


def test_keys_and_values_are_what_the_model_says(tiny) -> None:
    loaded, entry = tiny
    sizes, _ = sizes_of(entry, StorageConfig())
    assert kv_bytes_per_token(sizes, 1) == loaded.kv_bytes_per_token
    assert kv_bytes_per_token(sizes, 2) == loaded.kv_bytes_per_token // 2


@pytest.mark.parametrize("num_frames", [1, 4, 5])
def test_a_prompt_is_no_longer_than_reckoned(tiny, num_frames: int) -> None:
    """Visual tokens exactly as the family's processor makes them, text within the bound."""
    loaded, entry = tiny
    sizes, _ = sizes_of(entry, StorageConfig())
    prompt = PromptConfig(text="describe this video, please: où est-il?", system="short")
    clip = tiny_clip(num_frames)
    video = VideoConfig(
        sampling=FrameSamplingConfig(num_frames=num_frames),
        frame_size=FrameSizeConfig(fixed_px=clip.frames.shape[1:3]),
    )
    inputs = loaded.prepare(clip, prompt)
    longest = longest_prompt(video, prompt, sizes.vision)
    assert longest.visual_tokens == inputs.num_visual_tokens
    assert longest.num_tokens >= inputs.num_tokens


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_shipped_is_what_was_published(name: str) -> None:
    parameters, hidden, intermediate, layers, heads, kv_heads, vision = PUBLISHED[name]
    sizes, source = sizes_of(ModelConfig(name=name), StorageConfig())
    assert "published" in source
    assert weights(sizes, 1).total / 2 == pytest.approx(parameters, rel=0.005)
    assert (sizes.hidden, sizes.intermediate, sizes.num_layers) == (hidden, intermediate, layers)
    assert (sizes.num_heads, sizes.num_kv_heads, sizes.head_size) == (heads, kv_heads, 128)
    assert sizes.vision.intermediate == vision  # type: ignore[attr-defined]


def test_an_unreadable_config_says_why(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PreflightUnavailableError, match="'bert'; supported are"):
        sizes_of(ModelConfig(name=str(tmp_path)), StorageConfig())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PreflightUnavailableError):
        sizes_of(ModelConfig(name=str(tmp_path)), StorageConfig())


def test_a_model_in_s3_is_reckoned_from_its_config(tiny, s3_bucket: S3Bucket) -> None:
    _, entry = tiny
    storage = s3_bucket.config
    config = Path(entry.name, "config.json").read_bytes()
    uri = f"s3://{s3_bucket.name}/models/tiny"
    storage_for(uri, storage).put(f"{uri}/config.json", config)
    in_s3, source = sizes_of(ModelConfig(name=f"{uri}/", dtype="float32"), storage)
    assert in_s3 == sizes_of(entry, storage)[0]
    assert source == "its folder in S3"
    with pytest.raises(PreflightUnavailableError):
        sizes_of(ModelConfig(name=f"{uri}-not"), storage)

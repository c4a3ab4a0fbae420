"""Guards how a model is cut: what each rank holds adds up, and what can't be cut is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PromptConfig
from pipeline.gang.world import World
from pipeline.models.errors import ModelLoadError
from pipeline.models.sharding import check_divides, cut_of
from tests.tiny_models import tiny_clip

PREFIX = "model.language_model.layers.0."


@dataclass
class TextConfig:
    num_key_value_heads: int = 8
    num_attention_heads: int = 64
    intermediate_size: int = 29568


@given(
    size=st.integers(1, 8),
    part=st.integers(1, 5),
    other=st.integers(1, 5),
    layer=st.sampled_from(["self_attn.q_proj", "mlp.down_proj"]),
)
def test_the_ranks_parts_are_the_whole(size, part, other, layer):
    dim = 1 if layer == "mlp.down_proj" else 0
    shape = (part, other) if dim == 0 else (other, part)
    whole_shape = (size * part, other) if dim == 0 else (other, size * part)
    whole = torch.arange(size * part * other).reshape(whole_shape)
    parts = []
    for rank in range(size):
        cut = cut_of(f"{PREFIX}{layer}.weight", torch.Size(shape), whole.shape, rank)
        assert cut is not None
        parts.append(whole.narrow(cut.dim, cut.start, cut.stop - cut.start))
    assert torch.equal(torch.cat(parts, dim=dim), whole)


@given(size=st.integers(1, 8), vocab_size=st.integers(8, 50))
def test_a_vocabulary_need_not_divide(size, vocab_size):
    """The last rank's rows may be fewer, or none; no row is missing and none twice."""
    rows = -(-vocab_size // size)
    held = []
    for rank in range(size):
        cut = cut_of("lm_head.weight", torch.Size((rows, 3)), torch.Size((vocab_size, 3)), rank)
        assert cut is not None
        held += range(cut.start, cut.stop)
    assert held == list(range(vocab_size))


def test_layers_of_the_vision_tower_are_whole_whatever_their_name():
    shape = torch.Size((6, 4))
    for name in ("model.visual.blocks.0.mlp.down_proj.weight",
                 "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
                 "model.language_model.norm.weight"):  # fmt: skip
        assert cut_of(name, shape, shape, 1) is None
        with pytest.raises(ModelLoadError, match="the config asks"):
            cut_of(name, shape, torch.Size((12, 4)), 1)


def test_heads_that_do_not_deal_out_are_refused_with_a_remedy():
    check_divides(TextConfig(), 8, "m")
    with pytest.raises(ModelLoadError, match=r"num_key_value_heads 8 does not divide .* 3; use"):
        check_divides(TextConfig(), 3, "m")


@given(count=st.integers(0, 50), size=st.integers(1, 9))
def test_shares_are_neighbours_even_and_all(count, size):
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_video_encoded_in_parts_is_the_video(pair, num_frames):
    model = pair.target
    vision = model.prepare(tiny_clip(num_frames=num_frames), PromptConfig()).vision
    with torch.inference_mode():
        whole = model.encode_video(vision)
        num_units = model.num_video_units(vision)
        parts = [model.encode_units(vision, at, at + 1) for at in range(num_units)]
    assert len(whole) == model.num_video_features(vision)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)

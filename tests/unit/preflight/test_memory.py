"""The arithmetic: parts add up, more ranks need less each, more frames more."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import FrameSamplingConfig, FrameSizeConfig, PromptConfig, VideoConfig
from pipeline.decoding.kv_budget import KvBudget, SessionShape, SlotLengths, round_up
from pipeline.preflight.errors import PreflightError
from pipeline.preflight.memory import (
    Load,
    ModelSizes,
    activation_bytes,
    check_divides,
    kv_bytes_per_token,
    possible_ranks,
    weights,
)
from pipeline.preflight.plan import grown
from pipeline.preflight.prompt import Prompt, longest_prompt, max_frame_pixels
from pipeline.preflight.vision import LlavaVisionSizes, QwenVisionSizes
from pipeline.video.frame_size import frame_size

QWEN = QwenVisionSizes(hidden=1280, intermediate=3456, patch_px=14, merge=2, frames_per_patch=2)
LLAVA = LlavaVisionSizes(hidden=1152, intermediate=4304, side_px=384, patch_px=14)


@st.composite
def models(draw: st.DrawFn) -> ModelSizes:
    """Models whose heads deal out over 1, 2, 4 and 8 ranks."""
    kv_heads = 8 * draw(st.integers(1, 4))
    return ModelSizes(
        split_params=64 * draw(st.integers(1, 10**9)),
        norm_params=draw(st.integers(0, 10**6)),
        vision_params=draw(st.integers(0, 10**9)),
        vocab_size=draw(st.integers(1, 200_000)),
        hidden=128 * draw(st.integers(1, 64)),
        intermediate=64 * draw(st.integers(1, 500)),
        num_layers=draw(st.integers(1, 100)),
        num_heads=kv_heads * draw(st.integers(1, 8)),
        num_kv_heads=kv_heads,
        head_size=draw(st.sampled_from([64, 128])),
        is_tied=False,
        itemsize=draw(st.sampled_from([2, 4])),
        vision=draw(st.sampled_from([QWEN, LLAVA])),
    )


@given(models(), st.sampled_from([2, 4, 8]))
def test_parts_add_up(model: ModelSizes, num_ranks: int) -> None:
    """What is split adds up to the whole, but for padding of the vocabulary."""
    one, part = weights(model, 1), weights(model, num_ranks)
    norms = model.norm_params * model.itemsize
    assert num_ranks * (part.layers - norms) == one.layers - norms
    matrix = model.vocab_size * model.hidden * model.itemsize
    head = num_ranks * (part.embeddings - matrix)
    assert matrix <= head < matrix + num_ranks * model.hidden * model.itemsize
    assert part.vision == one.vision
    assert num_ranks * kv_bytes_per_token(model, num_ranks) == kv_bytes_per_token(model, 1)


LOADS = st.builds(
    Load, st.integers(0, 64), st.integers(0, 16), st.integers(1, 8192), st.integers(1, 50_000)
)


@given(models(), LOADS, st.integers(1, 64), st.integers(0, 30_000))
def test_more_ranks_never_need_more_each(
    model: ModelSizes, load: Load, frames: int, tokens: int
) -> None:
    prompt = Prompt(frames, 384 * 384, tokens, 100)
    needs = [
        (weights(model, w).total, kv_bytes_per_token(model, w),
         activation_bytes(model, w, prompt, load))
        for w in (1, 2, 4, 8)
    ]  # fmt: skip
    for fewer, more in pairwise(needs):
        assert all(a >= b for a, b in zip(fewer, more))


@given(st.integers(1, 512), st.integers(1, 64), st.sampled_from([QWEN, LLAVA]))
def test_more_frames_never_need_less(num_frames: int, more: int, vision) -> None:
    """Although frames get smaller where the budget of all of them is used up."""

    def need(frames: int) -> tuple[int, int]:
        video = VideoConfig(sampling=FrameSamplingConfig(num_frames=frames))
        prompt = longest_prompt(video, PromptConfig(), vision)
        encoding = vision.activation_bytes(prompt.num_frames, prompt.frame_pixels, 8192, 2)
        return prompt.num_tokens, encoding

    assert all(a <= b for a, b in zip(need(num_frames), need(num_frames + more)))


@given(st.integers(16, 4320), st.floats(0.25, 4.0), st.integers(1, 768), st.sampled_from([28, 56]))
def test_no_frame_has_more_pixels(height: int, shape: float, frames: int, multiple: int) -> None:
    """The bound holds for what the decode process really does."""
    config = FrameSizeConfig(multiple_of_px=multiple)
    width = min(max(16, round(height * shape)), height * 4)
    if max(height, width) > 4 * min(height, width):
        return
    size = frame_size(height, width, frames, config)
    assert size[0] * size[1] <= max_frame_pixels(frames, config)


def test_a_tied_head_is_the_embedding_on_one_rank() -> None:
    model = ModelSizes(64, 0, 0, 100, 8, 64, 1, 8, 8, 8, True, 2, QWEN)
    assert weights(model, 1).embeddings == 100 * 8 * 2
    assert weights(model, 2).embeddings == (100 + 50) * 8 * 2


@pytest.mark.parametrize(
    ("num_ranks", "message"),
    [
        (3, "num_key_value_heads 8 does not divide by tensor_parallel_size 3: use 1, 2, 4 or 8"),
        (16, "num_key_value_heads 8 does not divide by tensor_parallel_size 16: use"),
    ],
)
def test_what_does_not_divide_is_named(num_ranks: int, message: str) -> None:
    model = ModelSizes(64, 0, 0, 100, 8, 27648, 1, 40, 8, 8, False, 2, QWEN)
    with pytest.raises(PreflightError, match=message):
        check_divides(model, num_ranks)
    for possible in possible_ranks(model):
        check_divides(model, possible)
    with pytest.raises(PreflightError, match=r"intermediate_size 30 .* 4: use 1 or 2$"):
        check_divides(replace(model, intermediate=30), 4)


@given(st.integers(1, 200), st.integers(1, 200))
def test_slots_grow_no_longer_than_reckoned(kept: int, needed: int) -> None:
    """Whatever slots there were before, KvBudget grows them to no more than ``grown``."""
    kept, needed = sorted((256 * kept, 256 * needed))
    budget = KvBudget(1 << 60, 1, 1)
    before = SessionShape(1, SlotLengths(kept, kept))
    shape = budget.shape(SlotLengths(needed, needed), 1, before)
    assert shape is not None
    most = grown(SlotLengths(needed, needed))
    assert most.covers(shape.lengths)
    assert most.target == round_up(needed * 5 // 4)

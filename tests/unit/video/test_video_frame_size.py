"""The frame size is the one the model's own processor would choose, so it never resizes again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    smart_resize as transformers_smart_resize,
)

from pipeline.config import FrameSizeConfig
from pipeline.video.frame_size import frame_size, smart_resize

SIDES = st.integers(2, 4500)


@given(SIDES, SIDES, st.sampled_from([14, 28, 32]), st.integers(1, 300), st.integers(1, 2000))
def test_equal_to_transformers(height_px, width_px, multiple, min_patches, more_patches):
    if max(height_px, width_px) / min(height_px, width_px) > 200:
        return  # transformers refuses these
    min_pixels = min_patches * multiple**2
    max_pixels = min_pixels + more_patches * multiple**2
    expected = transformers_smart_resize(height_px, width_px, multiple, min_pixels, max_pixels)
    if 0 in expected:
        return  # a side of nothing: transformers fails later
    assert smart_resize(height_px, width_px, multiple, min_pixels, max_pixels) == expected


@given(SIDES, SIDES, st.integers(1, 800))
def test_the_model_s_own_resize_changes_nothing(height_px, width_px, num_frames):
    config = FrameSizeConfig()
    height, width = frame_size(height_px, width_px, num_frames, config)
    assert height % 28 == width % 28 == 0
    if max(height, width) / min(height, width) <= 200:
        again = transformers_smart_resize(height, width, 28, config.min_pixels, config.max_pixels)
        assert again == (height, width)


@pytest.mark.parametrize("num_frames", [1, 32, 64, 150])
def test_all_frames_together_stay_in_the_budget(num_frames):
    config = FrameSizeConfig()
    height, width = frame_size(1080, 1920, num_frames, config)
    assert height * width <= config.max_pixels
    assert height * width * num_frames <= config.max_total_pixels


def test_no_frame_gets_unreadable_for_the_sake_of_the_total():
    config = FrameSizeConfig()
    height, width = frame_size(1080, 1920, 768, config)
    assert config.min_pixels <= height * width <= 1.3 * config.min_pixels


def test_a_full_hd_frame():
    assert frame_size(1080, 1920, 1, FrameSizeConfig()) == (560, 1008)


def test_a_fixed_size_wins():
    assert frame_size(1080, 1920, 999, FrameSizeConfig(fixed_px=(384, 384))) == (384, 384)

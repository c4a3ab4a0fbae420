"""Sampled times: sorted, inside the span, evenly spread over all of it, as many as asked."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import FrameSamplingConfig, SamplingPolicy
from pipeline.video.sampling import sample_times

STARTS = st.floats(0, 20_000)
LENGTHS = st.floats(0.01, 20_000)
RATES = st.floats(0.1, 240)
COUNTS = st.integers(1, 1000)


def check_even(times_s, start_s, end_s):
    step_s = (end_s - start_s) / len(times_s)
    assert np.all(times_s >= start_s)
    assert np.all(times_s < end_s)
    np.testing.assert_allclose(times_s[0] - start_s, step_s / 2, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(end_s - times_s[-1], step_s / 2, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.diff(times_s), step_s, rtol=1e-6, atol=1e-6)
    assert np.all(np.diff(times_s) > 0)


@given(STARTS, LENGTHS, RATES, COUNTS)
def test_uniform(start_s, length_s, source_fps, num_frames):
    config = FrameSamplingConfig(num_frames=num_frames)
    end_s = start_s + length_s
    times_s = sample_times(start_s, end_s, source_fps, config)
    check_even(times_s, start_s, end_s)
    in_clip = (end_s - start_s) * source_fps
    assert len(times_s) <= max(1, in_clip + 1e-3)
    if in_clip >= num_frames:
        assert len(times_s) == num_frames


@given(STARTS, LENGTHS, RATES, st.floats(0.01, 60), COUNTS)
def test_frames_per_second(start_s, length_s, source_fps, fps, max_frames):
    config = FrameSamplingConfig(policy=SamplingPolicy.FPS, fps=fps, max_frames=max_frames)
    end_s = start_s + length_s
    times_s = sample_times(start_s, end_s, source_fps, config)
    check_even(times_s, start_s, end_s)
    assert len(times_s) <= max_frames
    rate = min(fps, source_fps)
    if (end_s - start_s) * rate <= max_frames:
        wanted = max(1, math.floor((end_s - start_s) * rate + 1e-3))
        assert abs(len(times_s) - wanted) <= 1


@given(st.integers(1, 2000), st.sampled_from([23.976, 24, 25, 29.97, 30, 60]), COUNTS)
def test_at_a_constant_rate_no_two_samples_share_a_frame(clip_frames, fps, num_frames):
    times_s = sample_times(0, clip_frames / fps, fps, FrameSamplingConfig(num_frames=num_frames))
    frames = np.floor(times_s * fps + 1e-6)
    assert len(times_s) == min(num_frames, clip_frames)
    assert np.all(np.diff(frames) >= 1)


@pytest.mark.parametrize("end_s", [1.0, 0.5, math.nan])
def test_an_empty_span_is_refused(end_s):
    with pytest.raises(ValueError, match="empty span"):
        sample_times(1.0, end_s, 25, FrameSamplingConfig())

"""Whatever the cuts, the clips cover the video exactly, without overlaps, and none is too short."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ClipConfig, ClipPolicy
from pipeline.records import VideoInfo
from pipeline.video.clips import plan_spans

DURATIONS = st.floats(0.02, 21_600)


def check(spans, duration_s, shortest_s):
    assert spans[0][0] == 0.0
    assert spans[-1][1] == duration_s
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert all(start_s < end_s for start_s, end_s in spans)
    if len(spans) > 1:
        assert all(end_s - start_s >= shortest_s * (1 - 1e-9) for start_s, end_s in spans)


@given(
    DURATIONS,
    st.floats(1, 120),
    st.floats(0, 10),
    st.lists(st.floats(0, 30_000), max_size=50),
    st.sampled_from(ClipPolicy),
    st.floats(0.5, 300),
)
def test_clips_cover_the_video(duration_s, fps, min_clip_s, cuts_s, policy, window_s):
    info = VideoInfo("mp4", "h264", 64, 48, 0, duration_s, fps, 1)
    config = ClipConfig(policy=policy, window_s=window_s, min_clip_s=min_clip_s)
    spans = plan_spans(info, config, sorted(cuts_s))
    check(spans, duration_s, max(min_clip_s, 1 / fps))


@given(DURATIONS, st.floats(0.5, 300))
def test_windows_are_of_one_length_but_for_the_last(duration_s, window_s):
    info = VideoInfo("mp4", "h264", 64, 48, 0, duration_s, 25.0, 1)
    config = ClipConfig(policy=ClipPolicy.WINDOWS, window_s=window_s, min_clip_s=0.1)
    spans = plan_spans(info, config)
    assert all(abs(end_s - start_s - window_s) < 1e-6 for start_s, end_s in spans[:-1])
    last_s = spans[-1][1] - spans[-1][0]
    assert last_s < window_s + max(0.1, 1 / 25) + 1e-6

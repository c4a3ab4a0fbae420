"""Guards the run's course in bounded memory: nothing is lost when stretches grow longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.html_timeline import Timeline

START = datetime(2026, 11, 22, 20, 0, 0, tzinfo=UTC)


def test_means_of_each_stretch() -> None:
    timeline = Timeline()
    for second, share, kept in ((0, 0.8, 1.0), (0, 0.6, None), (5, 0.4, 0.5), (5, None, None)):
        timeline.add(START + timedelta(seconds=second, milliseconds=300), share, kept)
    (first_at, first), (second_at, second) = timeline.stretches()
    assert (first_at, second_at) == (START, START + timedelta(seconds=5))
    assert (first.num_captions, first.relaxed_share, first.facts_kept) == (2, 0.7, 1.0)
    assert (second.num_captions, second.relaxed_share, second.facts_kept) == (2, 0.4, 0.5)


def test_no_lambda_and_nothing_compared() -> None:
    timeline = Timeline()
    timeline.add(START, None, None)
    ((_, stretch),) = timeline.stretches()
    assert (stretch.relaxed_share, stretch.facts_kept) == (None, None)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=40), st.integers(2, 10))
def test_any_span_fits_and_every_caption_counts(seconds: list[int], max_bins: int) -> None:
    timeline = Timeline(max_bins=max_bins)
    for second in seconds:
        timeline.add(START + timedelta(seconds=second), 0.5, 1.0)
    stretches = timeline.stretches()
    assert len(stretches) <= max_bins
    assert sum(stretch.num_captions for _, stretch in stretches) == len(seconds)
    first = START + timedelta(seconds=min(seconds))
    assert stretches[0][0] <= first < stretches[0][0] + timedelta(seconds=timeline.width_s)

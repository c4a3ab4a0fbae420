"""Guards when a bad night ends early, and what a run over its budget says."""

import pytest
from make_records import caption_record, clip_spec, failure

from pipeline.config import FailureBudget
from pipeline.failure_budget import MIN_OUTCOMES, BudgetWatch, causes


def watch(num_failures: int, num_captions: int, **budget: object) -> BudgetWatch:
    made = BudgetWatch(FailureBudget(**budget))
    for _ in range(num_captions):
        made.add(caption_record())
    for _ in range(num_failures):
        made.add(failure(clip_spec()))
    return made


@pytest.mark.parametrize(
    ("num_failures", "num_captions", "is_spent"),
    [
        (MIN_OUTCOMES - 1, 0, False),  # a folder of bad files that comes first
        (MIN_OUTCOMES, 0, True),
        (10, 90, False),
        (18, 82, False),  # but of 100 clips that may be chance
        (30, 70, True),
        (1050, 8950, False),
        (1200, 8800, True),
        (0, 1000, False),
    ],
)
def test_a_run_ends_when_its_share_is_surely_too_high(
    num_failures: int, num_captions: int, is_spent: bool
) -> None:
    assert watch(num_failures, num_captions, max_share=0.1).is_spent is is_spent
    assert not watch(num_failures, num_captions, max_share=0.1, end_early=False).is_spent


def test_a_count_needs_no_statistics() -> None:
    assert not watch(3, 0, max_count=3).is_spent
    assert watch(4, 0, max_count=3).is_spent


def test_a_corpus_as_bad_as_the_budget_allows_goes_to_its_end() -> None:
    """The share is looked at after each of 20,000 outcomes, and chance must not end the run."""
    made = BudgetWatch(FailureBudget(max_share=0.1))
    for index in range(20_000):
        made.add(failure(clip_spec()) if index * 7919 % 1000 < 100 else caption_record())
        assert not made.is_spent


def test_causes_are_told_with_counts_and_kinds() -> None:
    told = causes({"corrupt": 2, "timeout": 30})
    assert told == "30 timeout (transient), 2 corrupt (poison)"

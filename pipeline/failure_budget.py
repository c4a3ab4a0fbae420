"""Whether a run has more failures than its budget bears: while it runs, and at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.config import FailureBudget
from pipeline.dataset.summary import RunSummary
from pipeline.failure_kinds import kind_of
from pipeline.records import Failure, Outcome
from pipeline.statistics import share

MIN_OUTCOMES = 100
"""Fewer outcomes end no run: a folder of bad files that happens to come first is no bad night."""
Z_SURE = 3.290527
"""99.9 %, two-sided. The share is looked at after every outcome, and the more often one looks, the
more often chance shows a share that is not there: an interval of 95 % would end good nights."""
FEWEST_REPEATED = 20
"""Fewer equal captions are no alarm: some clips are alike."""
_MAX_CAUSES = 8


class BudgetWatch:
    """Counts a run's outcomes against its budget."""

    def __init__(self, budget: FailureBudget) -> None:
        self._budget = budget
        self._failures: Counter[str] = Counter()
        self._num_outcomes = 0

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self._num_outcomes += 1
        if isinstance(outcome, Failure):
            self._failures[outcome.code] += 1

    @property
    def is_spent(self) -> bool:
        """Whether going on makes no sense: over the count, or surely over the share."""
        budget, num_failures = self._budget, self._failures.total()
        if not budget.end_early:
            return False
        if budget.max_count is not None and num_failures > budget.max_count:
            return True
        if self._num_outcomes < MIN_OUTCOMES:
            return False
        return share(num_failures, self._num_outcomes, Z_SURE).low > budget.max_share


def complaint(summary: RunSummary, budget: FailureBudget) -> str | None:
    """What makes a run's result one that nobody should use unseen (exit code 3); None: nothing."""
    too_many = budget.max_count is not None and summary.num_failures > budget.max_count
    if too_many or summary.failure_share > budget.max_share:
        ended = "; the run was ended early (failures.end_early)" if summary.ended_early else ""
        return (
            f"{summary.num_failures} of {summary.num_clips} clips failed, more than the budget "
            f"(failures.max_share {budget.max_share:g}, max_count {budget.max_count}){ended}: "
            f"{causes(summary.failures_by_code)}; see the failures table for the causes"
        )
    is_alarming = summary.num_repeated_captions >= FEWEST_REPEATED
    if is_alarming and summary.repeated_caption_share > budget.max_repeated_share:
        return (
            f"{summary.repeated_caption_share:.0%} of the captions are word for word those of "
            f"clips with other frames, more than failures.max_repeated_share "
            f"{budget.max_repeated_share:g}: look at some of them before you trust this run (clips "
            "swapped, frames black or unseen, a prompt that begs one answer?)"
        )
    return None


def causes(by_code: Mapping[str, int]) -> str:
    """Codes with their counts and kinds, the most frequent first."""
    ordered = sorted(by_code.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count} {code} ({kind_of(code)})" for code, count in ordered[:_MAX_CAUSES]]
    rest = sum(count for _, count in ordered[_MAX_CAUSES:])
    return ", ".join([*named, *([f"{rest} of other causes"] if rest else [])])

"""Which scores are anchors: lambda as a rank quantile (docs/method.md, section 3).

The rank of a score is the share (0 to 1) of a reference that is not above it. A slot is a filler if
its rank is at most lambda, so that at lambda 0 nothing is and at 1 everything, and ties fall to the
strict side. What the reference is makes the scope.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence

from pipeline.speculation_config import QuantileScope

Ranking = Callable[[Sequence[float]], Sequence[float]]
"""Ranks of a block's scores; may remember earlier blocks of the same caption."""


def ranking(scope: QuantileScope, calibrated_quantiles: Sequence[float] = ()) -> Ranking:
    """A fresh ranking for one caption. Raises ValueError if ``calibrated`` lacks its quantiles."""
    if scope is QuantileScope.BLOCK:
        return block_ranks
    if scope is QuantileScope.RUNNING:
        return _running_ranks()
    if not calibrated_quantiles:
        raise ValueError(
            "quantile_scope calibrated needs a calibration (speculation.calibration; "
            "jobs/calibrate.py writes one)"
        )
    return lambda scores: [_rank(score, calibrated_quantiles) for score in scores]


def block_ranks(scores: Sequence[float]) -> Sequence[float]:
    """Ranks among the block's own scores."""
    ordered = sorted(scores)
    return [_rank(score, ordered) for score in scores]


def _running_ranks() -> Ranking:
    """Ranks among all scores of the caption so far, this block included.

    A caption has a few hundred tokens, so all of them are kept.
    """
    seen: list[float] = []

    def ranks(scores: Sequence[float]) -> Sequence[float]:
        for score in scores:
            insort(seen, score)
        return [_rank(score, seen) for score in scores]

    return ranks


def is_filler(score: float, rank: float, relaxed_share: float) -> bool:
    """Whether a slot may be loose at this lambda; infinite scores never are."""
    return relaxed_share > 0 and rank <= relaxed_share and not math.isinf(score)


def _rank(score: float, ordered: Sequence[float]) -> float:
    return bisect_right(ordered, score) / len(ordered)

"""How well a score separates two kinds of tokens, with intervals over clips.

Shapes: N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.statistics import Estimate, bootstrap

_RECALLS = (0.99, 0.95)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Separation:
    """AUC: the chance that a positive token scores above a negative one, ties counted half.

    flagged is the share of negatives at or above the threshold that has 99 % of the positives at
    or above it, flagged_95 with 95 %. nan where one kind is missing.
    """

    auc: Estimate
    flagged: Estimate
    flagged_95: Estimate
    num_positive: int
    num_negative: int


class _Sorted:
    """Scores in groups of equals, ascending, so that reweighted figures need no sorting."""

    def __init__(self, scores: Floats, positive: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._starts = starts
        self._positive = positive[self._order]

    def _groups(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weight of positives and of negatives in each group."""
        ordered = weights[self._order]
        positive = np.add.reduceat(ordered * self._positive, self._starts)
        negative = np.add.reduceat(ordered * ~self._positive, self._starts)
        return positive, negative

    def auc(self, weights: Floats) -> float:
        positive, negative = self._groups(weights)
        below = np.cumsum(negative) - negative
        total = positive.sum() * negative.sum()
        return float((positive * (below + negative / 2)).sum() / total) if total else np.nan

    def flagged(self, weights: Floats, recall: float) -> float:
        positive, negative = self._groups(weights)
        if not positive.sum() or not negative.sum():
            return np.nan
        at_or_above = np.cumsum(positive[::-1])[::-1]
        # The highest group that still has enough; a rounding error must not lower it.
        enough = at_or_above >= recall * positive.sum() - 1e-9
        threshold = int(np.flatnonzero(enough)[-1])
        return float(negative[threshold:].sum() / negative.sum())


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Of scores [N] by labels [N], nan where one kind is missing."""
    labels = np.asarray(positive, dtype=bool)
    if not len(labels):
        return float("nan")
    ordered = _Sorted(np.asarray(scores, dtype=np.float64), labels)
    return ordered.auc(np.ones(len(labels)))


def separation(scores: npt.ArrayLike, positive: npt.ArrayLike, clips: npt.ArrayLike) -> Separation:
    """Of scores [N] by labels [N] (bool); clips [N] says of which clip (an index) each token is.

    Whole clips are resampled, as the tokens of one are not independent. Raises ValueError if there
    are no tokens.
    """
    labels = np.asarray(positive, dtype=bool)
    indices, clip_of = np.unique(np.asarray(clips), return_inverse=True)
    ordered = _Sorted(np.asarray(scores, dtype=np.float64), labels)

    def estimate(statistic: Callable[[Floats], float]) -> Estimate:
        def resampled(rows: Floats) -> float:
            counts = np.bincount(rows[:, 0].astype(int), minlength=len(indices))
            return statistic(counts[clip_of].astype(np.float64))

        return bootstrap(np.arange(len(indices))[:, None], resampled)

    high, low = _RECALLS
    return Separation(
        auc=estimate(ordered.auc),
        flagged=estimate(lambda weights: ordered.flagged(weights, high)),
        flagged_95=estimate(lambda weights: ordered.flagged(weights, low)),
        num_positive=int(labels.sum()),
        num_negative=int((~labels).sum()),
    )


def threshold_at(scores: npt.ArrayLike, recall: float) -> float:
    """The highest threshold that has this share, above 0, of the scores [N > 0] at or above it."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    spared = int(np.floor((1 - recall) * len(ordered) + 1e-9))
    return float(ordered[spared])

"""Choosing a pair's settings: the fastest, by the cost model, of those that keep enough facts.

A staged search, not a grid. Lambda is walked along a ladder of thresholds, each letting through a
known share of harmful mismatches, since speed grows and facts fall along it; then the window, the
scope, where a draft stops, K and the method are changed one at a time, and a change stays if it is
faster and keeps enough facts too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.calibration.separation import threshold_at
from pipeline.calibration.trials import Setting, Trial
from pipeline.speculation_config import QuantileScope, SpeculationMethod

LONGEST_K = 24
WINDOWS = (1, 3)
FIRST_CONFIDENCE = 0.6
CONFIDENCES = (0.0, 0.4, 0.8)
PAPER_GAIN = 1.03
NUM_QUANTILES = 1001
"""A tenth of a percent of the drafted tokens apart: the thresholds that matter lie close."""
RECALLS = (1.0, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9)
"""Shares of the harmful mismatches that a threshold stops."""

RunTrial = Callable[[Setting], Trial]


def score_quantiles(drafted: npt.ArrayLike) -> tuple[float, ...]:
    """1001 ascending quantiles of the scores of drafted tokens, each a score that occurred."""
    levels = np.linspace(0, 1, NUM_QUANTILES)
    values = np.quantile(np.asarray(drafted, np.float64), levels, method="inverted_cdf")
    return tuple(float(value) for value in values)


def ladder(quantiles: Sequence[float], harmful_scores: npt.ArrayLike) -> list[float]:
    """Lambdas for scope calibrated, ascending: one for each of RECALLS, equal ones once.

    At each, tokens below the threshold that stops so many of the harmful mismatches are fillers.
    Without harmful mismatches everything may be a filler.
    """
    scores = np.asarray(harmful_scores, np.float64)
    if not len(scores):
        return [1.0]
    lambdas = {
        float(np.searchsorted(quantiles, threshold_at(scores, recall)) / len(quantiles))
        for recall in RECALLS
    }
    return sorted(lambdas)


def best_length(histogram: Sequence[int], speed_up: Callable[[float, int], float]) -> int:
    """The K of the highest expected speed-up, by what a longer one accepted.

    ``histogram[a]``: target steps that kept a drafted tokens, at a K that is the longest of those
    considered. A shorter draft is taken to keep as many of its tokens: blocks then begin elsewhere,
    so this is an estimate. ``speed_up`` is of tokens a step and K.
    """
    counts = np.array(histogram, np.float64)
    lengths = range(1, len(counts))

    def expected(k: int) -> float:
        kept = np.minimum(np.arange(len(counts)), k)
        return speed_up(float((counts * kept).sum() / counts.sum()) + 1, k)

    return max(lengths, key=expected)


@dataclass(slots=True, eq=False)
class Search:
    """Tries settings, each once. ``facts`` names the extractor that the budget is about."""

    run: RunTrial
    facts: str
    min_facts_kept: float
    report: Callable[[str], None]
    _tried: dict[Setting, Trial] = field(default_factory=dict, init=False)

    @property
    def tried(self) -> list[Trial]:
        """All trials, in order."""
        return list(self._tried.values())

    def trial(self, setting: Setting) -> Trial:
        """Decode, unless that was done."""
        if setting not in self._tried:
            trial = self._tried[setting] = self.run(setting)
            kept = ", ".join(f"{name} {value:.2%}" for name, value in trial.kept.items())
            self.report(
                f"{setting}: {trial.speed_up:.2f}x by the cost model, T "
                f"{trial.mean_accepted_length:.2f}; facts kept: {kept}"
            )
        return self._tried[setting]

    def keeps_enough(self, trial: Trial) -> bool:
        """Whether the mean is within the budget; its interval is reported."""
        return trial.kept[self.facts].value >= self.min_facts_kept

    def best(self) -> Trial:
        """The fastest within the budget; if none is, the one that keeps most."""
        good = [trial for trial in self.tried if self.keeps_enough(trial)]
        if good:
            return max(good, key=lambda trial: trial.speed_up)
        return max(self.tried, key=lambda trial: trial.kept[self.facts].value)

    def climb(self, setting: Setting, lambdas: Sequence[float]) -> Trial:
        """The highest lambda within the budget, by bisection; facts are taken to fall with it.

        The lowest lambda if none is.
        """
        low, high = 0, len(lambdas) - 1
        best = low
        while low <= high:
            middle = (low + high) // 2
            if self.keeps_enough(self.trial(with_anchors(setting, relaxed_share=lambdas[middle]))):
                best, low = middle, middle + 1
            else:
                high = middle - 1
        return self.trial(with_anchors(setting, relaxed_share=lambdas[best]))

    def improve(self, settings: Sequence[Setting]) -> Trial:
        """Try these; the best of all that was tried."""
        for setting in settings:
            self.trial(setting)
        return self.best()


def choose(
    search: Search,
    start: Setting,
    lambdas: Sequence[float],
    speed_up: Callable[[float, int], float],
) -> Trial:
    """The staged search from ``start``, of method safe, whose K is the longest considered.

    It climbs without shifts, since those cost facts too; they are then tried like all else. Without
    guards and floor (paper) it must be faster by 3 %, or they stay.
    """
    start = with_anchors(start, shift_window=0)
    search.climb(replace(start, confidence_threshold=FIRST_CONFIDENCE), lambdas)
    now = search.best()
    now = search.improve([with_anchors(now.setting, shift_window=w) for w in WINDOWS])
    others = [s for s in QuantileScope if s is not now.setting.anchors.quantile_scope]
    now = search.improve([with_anchors(now.setting, quantile_scope=scope) for scope in others])
    now = search.improve([replace(now.setting, confidence_threshold=c) for c in CONFIDENCES])
    k = now.setting.num_speculative_tokens
    if now.setting.confidence_threshold == 0:  # one that stops by itself may be long
        k = best_length(now.accepted_histogram, speed_up)
    shorter = replace(now.setting, num_speculative_tokens=k)
    now = search.improve([shorter])
    # Another K meets other mismatches: lambda may be one rung too high now, or too low.
    relaxed_share = shorter.anchors.relaxed_share
    if search.keeps_enough(search.trial(shorter)):
        nearest = [value for value in lambdas if value > relaxed_share][:1]
    else:
        nearest = [value for value in lambdas if value < relaxed_share][-1:]
    now = search.improve([with_anchors(shorter, relaxed_share=value) for value in nearest])
    paper = search.trial(replace(now.setting, method=SpeculationMethod.PAPER))
    is_better = paper.speed_up > now.speed_up * PAPER_GAIN
    return paper if is_better and search.keeps_enough(paper) else now


def with_anchors(setting: Setting, **changes: Any) -> Setting:
    """The setting with other anchors."""
    return replace(setting, anchors=setting.anchors.model_copy(update=changes))

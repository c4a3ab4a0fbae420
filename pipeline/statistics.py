"""Values with their uncertainty: a statistic of samples, and its bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 2000
Z_95 = 1.959964
_SEED = 0  # the same samples give the same interval

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval over ``num_samples`` samples.

    Formats all three numbers by one format: ``f"{estimate:.1%}"`` is ``97.0% [96.1%, 97.8%]``.
    """

    value: float
    low: float
    high: float
    num_samples: int

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap(samples: npt.ArrayLike, statistic: Callable[[Samples], float]) -> Estimate:
    """A statistic of samples [N] or [N, columns], and its 95 % percentile bootstrap interval.

    Whole rows are resampled, so what was measured together stays together; resamples of which the
    statistic is nan are left out. Raises ValueError if there are no samples.
    """
    rows = np.asarray(samples, dtype=np.float64)
    if not len(rows):
        raise ValueError("an estimate needs at least one sample")
    rng = np.random.default_rng(_SEED)
    resampled = [
        statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(NUM_RESAMPLES)
    ]
    # A statistic may be unknown for a sample, as a ratio is where what it counts is missing.
    known = [value for value in resampled if not math.isnan(value)]
    low, high = np.quantile(known or [math.nan], (0.025, 0.975))
    return Estimate(float(statistic(rows)), float(low), float(high), len(rows))


def bootstrap_mean(samples: npt.ArrayLike) -> Estimate:
    """The mean of samples [N] and its interval; see ``bootstrap``."""
    return bootstrap(samples, lambda rows: float(rows.mean()))


def share(num_hits: int, num_samples: int, z: float = Z_95) -> Estimate:
    """A share of samples and its Wilson interval, which stays wide where all samples agree.

    ``z`` is the interval's half width in standard deviations. Raises ValueError if there are no
    samples.
    """
    if not num_samples:
        raise ValueError("an estimate needs at least one sample")
    value = num_hits / num_samples
    scale = 1 + z**2 / num_samples
    middle = value + z**2 / (2 * num_samples)
    spread = z * math.sqrt(value * (1 - value) / num_samples + (z / (2 * num_samples)) ** 2)
    low, high = max(0.0, middle - spread) / scale, min(scale, middle + spread) / scale
    return Estimate(value, min(low, value), max(high, value), num_samples)


def speed_up(rows: Samples) -> float:
    """Ratio of two rates, from rows of (tokens, seconds, baseline tokens, baseline seconds).

    Totals over totals, per token rather than per clip, as a loosely decoded caption may differ in
    length. 0 where there is no rate to compare with.
    """
    tokens, seconds, baseline_tokens, baseline_seconds = rows.sum(axis=0)
    under = seconds * baseline_tokens
    return float(tokens * baseline_seconds / under) if under else 0.0

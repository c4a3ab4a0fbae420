"""The mean of values in 0 to 1, judged at any time: an interval, and evidence against a bound.

Shares of facts kept are 1 for nearly every clip and much less for a few. Student's t is too sure of
itself on such values (while all are 1 its interval is a point), and every interval made for one
look is wrong too often if one looks after each clip. So this bets (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", 2024): against "the mean is at least m",
a gambler stakes a share f of his wealth on each value being less, at odds that are fair or worse
for him if the claim is true:

    wealth *= 1 + f (m - x) / (1 - m)

Then he ever reaches c times his start with probability at most 1 / c, whatever the values'
distribution and however often one looks (Ville's inequality). The start is divided among a few f.
An m at which he has 40 times his start is outside the interval; both ends together leave 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_STAKES = (0.6, 0.3, 0.15, 0.07, 0.03, 0.01, 0.003)
_EVIDENCE_PER_END = 40.0
_PRECISION = 1e-5

Counts = Mapping[float, int]
"""How often each value was seen: few of them differ, and their order does not matter."""


def evidence_below(values: Counts, mean: float) -> float:
    """Wealth of the gambler who bets that the true mean is below ``mean``.

    By at least 20 this is wrong in at most 5 % of endless series. Infinite where a value alone
    refutes a mean of 1.
    """
    if mean >= 1:
        return math.inf if any(value < 1 for value in values) else 1.0
    logs = [
        sum(
            count * math.log1p(stake * (mean - value) / (1 - mean))
            for value, count in values.items()
        )
        for stake in _STAKES
    ]
    most = max(logs)
    if most > 700:
        return math.inf
    return sum(math.exp(log) for log in logs) / len(_STAKES)


def interval(values: Counts) -> tuple[float, float]:
    """95 % interval of the true mean, valid however often one looks; (0, 1) of no values."""
    flipped: dict[float, int] = {}
    for value, count in values.items():
        flipped[1 - value] = flipped.get(1 - value, 0) + count
    return 1 - _highest(flipped), _highest(values)


def _highest(values: Counts) -> float:
    """The least mean that is too high; evidence grows with it, so halving finds it."""
    total = sum(values.values())
    if not total or evidence_below(values, 1 - _PRECISION) < _EVIDENCE_PER_END:
        return 1.0
    low = sum(value * count for value, count in values.items()) / total
    high = 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if evidence_below(values, middle) >= _EVIDENCE_PER_END:
            high = middle
        else:
            low = middle
    return high

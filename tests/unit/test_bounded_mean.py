"""Guards the interval of a mean of shares: it covers the truth on skewed values, at every look."""

import math
import random
from collections import Counter

import pytest

from pipeline.bounded_mean import evidence_below, interval

DISTRIBUTIONS = {
    "a rare small loss": (0.03, 0.05),
    "a rare total loss": (0.01, 1.0),
    "a frequent loss": (0.4, 0.2),
    "mostly nothing": (0.97, 1.0),
}


def series(share, loss, seed):
    """Ones, but for a share of values that are less by a random part of twice the loss."""
    rng = random.Random(seed)
    values = Counter()
    for number in range(1, 201):
        value = 1.0
        if rng.random() < share:
            value = 1 - loss * (1.0 if loss == 1 else 2 * round(rng.random(), 1))
        values[value] += 1
        if number % 20 == 0:
            yield values


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_interval_covers_the_truth_at_every_look(name):
    """95 % of series never leave it; 10 looks a series. It holds with room to spare."""
    share, loss = DISTRIBUTIONS[name]
    truth = 1 - share * loss
    missed = 0
    for seed in range(100):
        ends = [interval(values) for values in series(share, loss, seed)]
        missed += any(not low <= truth <= high for low, high in ends)
    assert missed <= 5


def test_the_interval_narrows():
    widths = []
    for number in (0, 10, 100, 1000, 10_000):
        low, high = interval({1.0: number * 9 // 10, 0.8: number - number * 9 // 10})
        assert low <= 0.98 <= high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 1
    assert widths[-1] < 0.005


def test_values_that_are_all_one_leave_room_below():
    """Where Student's t would give a point: 100 clips do not prove 99.8 %."""
    low, high = interval({1.0: 100})
    assert 0.9 < low < 0.998
    assert high == 1.0


def test_evidence_grows_with_the_mean_that_is_claimed():
    values = {1.0: 50, 0.9: 3, 0.5: 1}
    evidence = [evidence_below(values, mean) for mean in (0.0, 0.5, 0.9, 0.98, 0.995, 0.9999, 1.0)]
    assert evidence == sorted(evidence)
    assert evidence[0] < 1
    assert evidence[-1] == math.inf


def test_no_values_and_no_loss_are_no_evidence():
    assert evidence_below({}, 0.5) == pytest.approx(1.0)
    assert evidence_below({1.0: 10**6}, 1.0) == 1.0
    assert evidence_below({1.0: 10**6}, 0.998) < 1e-6
    assert evidence_below({0.0: 10**6}, 0.998) == math.inf

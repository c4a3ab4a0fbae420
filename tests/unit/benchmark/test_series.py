"""Guards the numbers of the plots; how they are drawn is for eyes."""

import dataclasses

import pytest

from pipeline.benchmark.figures import figures_of
from pipeline.benchmark.methods import EXACT, LVSPEC, PLAIN
from pipeline.benchmark.series import (
    Line,
    Point,
    crossover,
    frontier,
    histograms,
    over_batch,
    time_splits,
)
from tests.benchmark_runs import part_runs


def line(*points):
    return Line("m", tuple(Point(x, y, x, x, y, y) for x, y in points))


@pytest.mark.parametrize(
    ("points", "where"),
    [
        ([(1, 2.0), (4, 1.5), (8, 1.1)], None),
        ([(1, 2.0), (4, 1.5), (16, 0.5)], 8.0),  # half of the way, on a log scale
        ([(1, 0.7), (8, 0.9)], 1),
        ([(1, 1.0), (2, 1.0)], None),
    ],
)
def test_the_crossover_is_where_the_curve_falls_below_one(points, where):
    found = crossover(line(*points))
    assert found == (where if where is None else pytest.approx(where))


def test_curves_over_batch_size_are_in_its_order():
    parts = [part_runs(batch=8, loose_decode_s=4.0), part_runs(batch=1)]
    lines = over_batch([f for part in parts for f in figures_of(part)])
    assert [each.name for each in lines] == [EXACT, LVSPEC]
    loose = lines[1].points
    assert [p.x for p in loose] == [1, 8]
    assert loose[0].y > 1 > loose[1].y
    assert all(p.y_low <= p.y <= p.y_high for p in loose)


def test_the_frontier_has_a_line_for_each_family_in_the_order_of_its_values():
    plain, exact, *_ = figures_of(part_runs())
    swept = [
        dataclasses.replace(exact, method=name)
        for name in ("fly @ 0.8", "lvspec @ 0.9", "fly @ 0.1", "lvspec @ 0.3", "exact")
    ]
    lines = {each.name: [p.label for p in each.points] for each in frontier([plain, *swept])}
    assert lines == {"fly": ["0.1", "0.8"], "lvspec": ["0.3", "0.9"], "exact": [""]}


def test_histograms_are_shares_of_the_steps_of_methods_that_draft():
    shares = histograms(figures_of(part_runs()))
    assert set(shares) == {EXACT, LVSPEC}
    assert shares[EXACT] == pytest.approx((0, 0.2, 0.2, 0.2, 0.4))


def test_time_splits_leave_out_what_does_not_tell():
    assert PLAIN not in time_splits(figures_of(part_runs()))
    assert set(time_splits(figures_of(part_runs()))) == {EXACT, LVSPEC}

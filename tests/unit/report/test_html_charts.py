"""Guards that charts show the numbers: lengths in proportion, nothing outside the drawing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.report.html_charts import (
    HEIGHT,
    WIDTH,
    bars,
    facts_curve,
    histogram,
    lambda_curve,
)
from pipeline.report.html_timeline import Stretch

START = datetime(2026, 11, 22, 20, 0, 0, tzinfo=UTC)


def test_bars_are_in_proportion_and_shares_add_up() -> None:
    (long, short, none) = bars([("a", 30), ("b", 10), ("c", 0)])
    assert (long.percent, short.percent, none.percent) == (100, pytest.approx(33.33, abs=0.01), 0)
    assert [bar.share for bar in (long, short, none)] == ["75.0%", "25.0%", "0.0%"]
    assert bars([("a", 0.0)], ",.1f", " s")[0].value == "0.0 s"
    assert bars([]) == []


@pytest.mark.parametrize("counts", [[0], [], [3], [1, 2, 0, 7], [5] * 60, [0, 123_456_789]])
def test_columns_stand_on_the_floor_inside_the_drawing(counts: list[int]) -> None:
    chart = histogram(counts)
    for column in chart.columns:
        assert column.x >= 0
        assert column.x + column.width <= WIDTH
        assert column.y >= 0
        assert column.y + column.height == pytest.approx(chart.floor)
    assert chart.floor < HEIGHT
    heights = [column.height for column in chart.columns]
    if sum(counts) and len(heights) == len(counts):
        scale = max(heights) / max(counts)
        assert heights == pytest.approx([count * scale for count in counts])


def test_a_long_histogram_ends_in_a_column_for_the_rest() -> None:
    chart = histogram([1] * 40 + [0, 0])
    assert len(chart.columns) == 25
    assert chart.columns[-1].title == "24+ accepted: 16 target steps, 40.0%"


def test_numbers_that_never_came_have_no_column() -> None:
    assert len(histogram([4, 1, 0, 0]).columns) == 2


@pytest.mark.parametrize(("value", "top"), [(0, "2"), (1, "2"), (7, "8"), (25, "30"), (101, "200")])
def test_the_axis_ends_at_a_round_number_that_halves(value: int, top: str) -> None:
    assert histogram([value]).ticks[-1].label == top


def stretch(lambda_: float | None, kept: float | None) -> Stretch:
    return Stretch(
        num_captions=1,
        num_lambdas=int(lambda_ is not None),
        lambda_sum=lambda_ or 0.0,
        num_facts=int(kept is not None),
        facts_sum=kept or 0.0,
    )


def test_curves_show_each_stretch_that_has_a_value() -> None:
    timeline = [
        (START, stretch(0.8, 1.0)),
        (START + timedelta(seconds=30), stretch(0.4, None)),
        (START + timedelta(seconds=60), stretch(0.4, 0.5)),
    ]
    facts, shares = facts_curve(timeline), lambda_curve(timeline)
    assert facts is not None
    assert shares is not None
    assert len(facts.points) == 2
    assert facts.points[-1].title == "20:01:00: 50.0% of the facts kept, 1 clip"
    assert facts.points[0].y < facts.points[1].y, "less is lower"
    assert facts.points[1].y == facts.floor, "the axis begins at the least value"
    assert [tick.label for tick in facts.times] == ["20:00:00", "20:00:30", "20:01:00"]
    middle, last = shares.points[1:]
    assert middle.y == last.y
    assert middle.x - shares.points[0].x == pytest.approx(last.x - middle.x, abs=0.2)


def test_no_curve_without_values_and_one_moment_is_a_point() -> None:
    assert facts_curve([(START, stretch(0.5, None))]) is None
    assert lambda_curve([]) is None
    chart = lambda_curve([(START, stretch(0.5, None))])
    assert chart is not None
    assert len(chart.points) == len(chart.times) == 1

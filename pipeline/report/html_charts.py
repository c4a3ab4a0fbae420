"""The geometry of a report's charts (pure); templates/charts.html draws it.

Lengths are of the drawing's own units; percentages are of the bar's cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.report.html_timeline import Stretch

WIDTH, HEIGHT = 460, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 18, 24
_MOST_COLUMNS = 25
_MOST_LABELS = 16
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a table whose numbers are drawn, too."""

    label: str
    percent: float
    """Length of the bar."""
    value: str
    share: str


def bars(values: Sequence[tuple[str, float]], form: str = ",.0f", unit: str = "") -> list[Bar]:
    """One for each value (none of them negative); the greatest fills its cell."""
    total = sum(value for _, value in values) or 1.0
    most = max((value for _, value in values), default=0.0) or 1.0
    return [
        Bar(label, 100 * value / most, f"{value:{form}}{unit}", f"{value / total:.1%}")
        for label, value in values
    ]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a histogram, from its top left corner."""

    x: float
    y: float
    width: float
    height: float
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Columns on a common floor; ``ticks`` are of the vertical axis."""

    columns: Sequence[Column]
    ticks: Sequence[Tick]
    floor: float


def histogram(counts: Sequence[int]) -> Histogram:
    """Entry n counts target steps that accepted n tokens; those beyond 24 share the last column."""
    shown = list(counts)
    while len(shown) > 1 and not shown[-1]:
        shown.pop()
    is_cut = len(shown) > _MOST_COLUMNS
    if is_cut:
        shown[_MOST_COLUMNS - 1 :] = [sum(shown[_MOST_COLUMNS - 1 :])]
    labels = [str(number) for number in range(len(shown))]
    if is_cut:
        labels[-1] += "+"
    every = 1 if len(shown) <= _MOST_LABELS else 2
    total, top = sum(shown) or 1, _round_up(max(shown, default=0))
    step = (WIDTH - _LEFT - _RIGHT) / max(len(shown), 1)
    floor, tall = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    columns = [
        Column(
            x=_LEFT + step * (place + 0.12),
            y=floor - tall * count / top,
            width=step * 0.76,
            height=tall * count / top,
            label="" if place % every else label,
            title=f"{label} accepted: {count:,} target steps, {count / total:.1%}",
        )
        for place, (label, count) in enumerate(zip(labels, shown))
    ]
    ticks = [Tick(floor - tall * part, f"{top * part:,.0f}") for part in (0.0, 0.5, 1.0)]
    return Histogram(columns, ticks, floor)


@dataclass(frozen=True, slots=True)
class Point:
    """A mark on a curve."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over a run's time, between ``low`` and ``high``."""

    name: str
    path: str
    """Of an SVG path, through the points."""
    points: Sequence[Point]
    ticks: Sequence[Tick]
    times: Sequence[Tick]
    floor: float


def facts_curve(timeline: Sequence[tuple[datetime, Stretch]]) -> Curve | None:
    """Facts kept by the clips that were compared; None if there were none."""
    values = [
        (at, kept, f"{kept:.1%} of the facts kept, {_clips(stretch.num_facts)}")
        for at, stretch in timeline
        if (kept := stretch.facts_kept) is not None
    ]
    lowest = min((value for _, value, _ in values), default=1.0)
    low = min(0.9, math.floor(lowest * 10) / 10)
    return _curve("Facts kept", values, low, timeline)


def lambda_curve(timeline: Sequence[tuple[datetime, Stretch]]) -> Curve | None:
    """Lambda in force; None where the method has none."""
    values = [
        (at, share, f"lambda {share:.3g}, {_clips(stretch.num_lambdas)}")
        for at, stretch in timeline
        if (share := stretch.relaxed_share) is not None
    ]
    return _curve("Lambda", values, 0.0, timeline)


def _curve(
    name: str,
    values: Sequence[tuple[datetime, float, str]],
    low: float,
    timeline: Sequence[tuple[datetime, Stretch]],
) -> Curve | None:
    if not values:
        return None
    first, last = timeline[0][0], timeline[-1][0]
    span_s = (last - first).total_seconds()
    floor, wide, tall = HEIGHT - _BOTTOM, WIDTH - _LEFT - _RIGHT - 16, HEIGHT - _BOTTOM - _TOP

    def x_of(at: datetime) -> float:
        share = (at - first).total_seconds() / span_s if span_s else 0.5
        return round(_LEFT + 8 + wide * share, 1)

    def y_of(value: float) -> float:
        return round(floor - tall * (value - low) / (1 - low), 1)

    form = "%d %b %H:%M" if span_s > _DAY_S else "%H:%M" if span_s > 600 else "%H:%M:%S"
    points = [Point(x_of(at), y_of(value), f"{at:{form}}: {title}") for at, value, title in values]
    times = [first, first + (last - first) / 2, last] if span_s else [first]
    middle = (1 + low) / 2
    return Curve(
        name=name,
        path="M" + "L".join(f"{point.x} {point.y}" for point in points),
        points=points,
        ticks=[Tick(y_of(value), f"{value:.3g}") for value in (low, middle, 1.0)],
        times=[Tick(x_of(at), f"{at:{form}}") for at in times],
        floor=floor,
    )


def _clips(number: int) -> str:
    return f"{number:,} clip{'s' * (number != 1)}"


def _round_up(value: int) -> int:
    """The least of 2, 3, 4, 5, 6, 8, 10 times a power of ten that is not below, but even."""
    power = 10 ** max(0, len(str(max(value, 1))) - 1)
    steps = (step * power for step in (2, 3, 4, 5, 6, 8, 10))
    return next(top for top in steps if top >= value and top % 2 == 0)

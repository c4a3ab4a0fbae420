"""What the plots show, as plain numbers; plots.py only draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.benchmark.figures import MethodFigures, TimeSplit
from pipeline.benchmark.methods import (
    EXACT,
    FLY,
    GENERATE,
    LVSPEC,
    LVSPEC_ADAPTIVE,
    ORACLE,
    PLAIN,
    RANDOM,
    SPECVLM_UNIFORM,
)

SHOWN = (EXACT, SPECVLM_UNIFORM, FLY, LVSPEC, LVSPEC_ADAPTIVE, RANDOM, ORACLE, GENERATE)
"""Methods of the curves over batch size: all of them would be a tangle."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point with the intervals of its coordinates that have one; ``label`` says what it is."""

    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one method or family, by x."""

    name: str
    points: tuple[Point, ...]


def over_batch(figures: Sequence[MethodFigures]) -> list[Line]:
    """Decode speed-up over batch size, for SHOWN."""
    lines = []
    for name in SHOWN:
        ours = sorted((f for f in figures if f.method == name), key=lambda f: f.batch)
        points = [
            Point(f.batch, f.speed_up.value, f.batch, f.batch, f.speed_up.low, f.speed_up.high, f.k)
            for f in ours
        ]
        if points:
            lines.append(Line(name, tuple(points)))
    return lines


def crossover(line: Line) -> float | None:
    """The batch size where the curve falls below 1, between two measured ones on a log scale.

    None if it does not; the first batch size if it starts below.
    """
    before: Point | None = None
    for point in line.points:
        if point.y < 1:
            if before is None:
                return point.x
            share = (before.y - 1) / (before.y - point.y)
            return float(2 ** (math.log2(before.x) + share * math.log2(point.x / before.x)))
        before = point
    return None


def frontier(figures: Sequence[MethodFigures]) -> list[Line]:
    """Facts kept over speed-up, a line for each family of ``<family> @ <value>``, by value."""
    families: dict[str, list[tuple[float, Point]]] = {}
    for f in figures:
        if f.method == PLAIN:
            continue
        family, _, value = f.method.partition(" @ ")
        point = Point(
            f.speed_up.value,
            f.facts_kept.value,
            f.speed_up.low,
            f.speed_up.high,
            f.facts_kept.low,
            f.facts_kept.high,
            value,
        )
        families.setdefault(family, []).append((float(value) if value else 0.0, point))
    return [
        Line(family, tuple(point for _, point in sorted(points, key=lambda pair: pair[0])))
        for family, points in families.items()
    ]


def histograms(figures: Sequence[MethodFigures]) -> Mapping[str, tuple[float, ...]]:
    """Share of target steps by number of accepted tokens, for methods that draft."""
    return {
        f.method: tuple(count / sum(f.accepted_histogram) for count in f.accepted_histogram)
        for f in figures
        if sum(f.accepted_histogram) and len(f.accepted_histogram) > 1
    }


def time_splits(figures: Sequence[MethodFigures]) -> Mapping[str, TimeSplit]:
    """Of our own methods: peers don't tell."""
    return {f.method: f.time for f in figures if f.tokens_per_step is not None}

"""Draws series.py's numbers with matplotlib (extra ``bench``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from pipeline.benchmark.figures import TimeSplit
from pipeline.benchmark.series import Line, crossover

mpl.use("agg")

_WIDTH_IN, _HEIGHT_IN, _DPI = 8.0, 5.0, 110
_HISTOGRAM_COLUMNS = 3
_SHARES = ("prefill", "draft", "verify", "scoring", "other")


def draw_over_batch(path: Path, lines: Sequence[Line]) -> None:
    """Speed-up over batch size; the line at 1 is plain decoding (K = 0)."""
    figure, axes = plt.subplots(figsize=(_WIDTH_IN, _HEIGHT_IN))
    batches = sorted({point.x for line in lines for point in line.points})
    for line in lines:
        xs = [p.x for p in line.points]
        (drawn,) = axes.plot(xs, [p.y for p in line.points], marker="o", label=line.name)
        lows, highs = [p.y_low for p in line.points], [p.y_high for p in line.points]
        axes.fill_between(xs, lows, highs, alpha=0.15, color=drawn.get_color())
        crossed = crossover(line)
        if crossed is not None:
            axes.plot([crossed], [1], marker="x", markersize=10, color=drawn.get_color())
    axes.axhline(1, color="black", linewidth=1, linestyle="--", label="plain decoding (K = 0)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [f"{batch:g}" for batch in batches])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch size")
    axes.set_ylabel("decode speed-up over plain decoding in the same batch")
    axes.set_title("Speed-up over batch size (bands: 95 %; x: crossover)")
    axes.legend(fontsize="small")
    _save(figure, path)


def draw_frontier(path: Path, lines: Sequence[Line]) -> None:
    """Facts kept over speed-up."""
    figure, axes = plt.subplots(figsize=(_WIDTH_IN, _HEIGHT_IN))
    for line in lines:
        xs, ys = [p.x for p in line.points], [p.y for p in line.points]
        errors = [[p.y - p.y_low for p in line.points], [p.y_high - p.y for p in line.points]]
        axes.errorbar(xs, ys, yerr=errors, marker="o", capsize=2, label=line.name)
        for p in line.points:
            axes.annotate(
                p.label, (p.x, p.y), xytext=(4, 4), textcoords="offset points", fontsize=7
            )
    axes.set_xlabel("decode speed-up over plain decoding, batch 1")
    axes.set_ylabel("facts kept (F1 against the target's own caption)")
    axes.set_title("Facts kept against speed (labels: lambda; fly: entropy threshold)")
    axes.legend(fontsize="small")
    _save(figure, path)


def draw_histograms(path: Path, shares: Mapping[str, Sequence[float]]) -> None:
    """How many drafted tokens a target step accepted."""
    rows = max(1, -(-len(shares) // _HISTOGRAM_COLUMNS))
    figure, grid = plt.subplots(
        rows,
        _HISTOGRAM_COLUMNS,
        figsize=(_WIDTH_IN * 1.3, 2.0 * rows),
        sharey=True,
        squeeze=False,
    )
    for axes in grid.flat[len(shares) :]:
        axes.set_visible(False)
    for axes, (name, of_method) in zip(grid.flat, shares.items()):
        axes.bar(range(len(of_method)), of_method)
        axes.set_title(name, fontsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("accepted drafted tokens of a target step")
    figure.supylabel("share of target steps")
    _save(figure, path)


def draw_time_splits(path: Path, splits: Mapping[str, TimeSplit]) -> None:
    """Where the wall clock goes."""
    names = list(splits)
    figure, axes = plt.subplots(figsize=(_WIDTH_IN, 1.0 + 0.35 * len(names)))
    left = [0.0] * len(names)
    for share in _SHARES:
        widths = [getattr(splits[name], share) for name in names]
        label = "book-keeping" if share == "other" else share
        axes.barh(names, widths, left=left, label=label)
        left = [start + width for start, width in zip(left, widths)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of wall-clock time")
    axes.legend(ncols=len(_SHARES), loc="lower center", bbox_to_anchor=(0.5, 1), fontsize="small")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)

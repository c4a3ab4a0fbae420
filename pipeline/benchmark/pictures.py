"""The report's pictures: which there are, and under which names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.benchmark.report import Report
from pipeline.benchmark.series import frontier, histograms, over_batch, time_splits


def draw(
    report: Report, output: Path, stem: str, print_line: Callable[[str], None]
) -> dict[str, str]:
    """Draw what there are figures for; file names by title. Nothing without matplotlib."""
    try:
        from pipeline.benchmark import plots as drawing
    except ImportError:
        print_line("no plots: matplotlib is not installed (make bench installs it)")
        return {}
    plots: dict[str, str] = {}

    def file(title: str, name: str) -> Path:
        plots[title] = f"{stem}-{name}.png"
        return output / plots[title]

    main = report.figures("main")
    if main:
        drawing.draw_over_batch(file("Speed-up over batch size", "batch"), over_batch(main))
    if swept := report.figures("frontier"):
        drawing.draw_frontier(file("Facts kept against speed", "frontier"), frontier(swept))
    for batch in (1, 8):
        if figures := report.figures("main", batch):
            title = f"Accepted lengths, batch {batch}"
            drawing.draw_histograms(file(title, f"accepted-batch{batch}"), histograms(figures))
            title = f"Time split, batch {batch}"
            drawing.draw_time_splits(file(title, f"time-batch{batch}"), time_splits(figures))
    return plots

"""A run's summary as a table for a terminal or a log."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from pipeline.dataset.summary import RunSummary
from pipeline.progress import format_duration

WIDTH_CHARS = 100


def summary_table(summary: RunSummary, dataset_uri: str) -> str:
    """Counts, speculation, speed and failures by cause, one line each; plain text."""
    table = Table(show_header=False, title="Run summary", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(summary, dataset_uri):
        table.add_row(name, value)
    text = io.StringIO()
    Console(file=text, width=WIDTH_CHARS, color_system=None).print(table)
    return text.getvalue().rstrip()


def _lines(summary: RunSummary, dataset_uri: str) -> list[tuple[str, str]]:
    lines = [
        ("data set", dataset_uri),
        ("captions", f"{summary.num_captions} in {format_duration(summary.elapsed_s)}"),
        ("failures", f"{summary.num_failures} ({summary.failure_share:.1%})"),
        *((f"  {code}", str(count)) for code, count in summary.failures_by_code.items()),
    ]
    if not summary.num_captions:
        return lines
    lines += [
        (
            "output tokens",
            f"{summary.output_tokens} ({summary.output_tokens / summary.num_captions:.0f} a clip), "
            f"{summary.output_tokens_per_s:.0f} tokens/s of decoding",
        ),
        (
            "mean accepted length",
            f"{summary.mean_accepted_length:.2f} drafted tokens a target step, without the bonus "
            f"({summary.accepted_tokens} of {summary.drafted_tokens} drafted)",
        ),
        ("video decode", f"{summary.video_decode_s_per_clip * 1e3:.0f} ms a clip"),
        ("model waits for frames", f"{summary.captioner_wait_share:.1%} of its time"),
    ]
    if plain := summary.plain:
        lines.append(
            (
                "against plain decoding",
                f"{plain.speed_up:.2f}x [{plain.speed_up_low:.2f}, {plain.speed_up_high:.2f}], "
                f"same text for {plain.equal_share:.1%} of {plain.num_clips} clips",
            )
        )
    return lines

"""A run's summary as a table for a terminal or a log."""

from __future__ import annotations

import io
import shlex

from rich.console import Console
from rich.table import Table

from pipeline.dataset.summary import RunSummary
from pipeline.failure_kinds import kind_of
from pipeline.progress import format_duration

WIDTH_CHARS = 100


def summary_table(summary: RunSummary, dataset_uri: str) -> str:
    """Counts, speculation, speed and failures by cause, one line each; plain text.

    The last line says how to make the report of the run; it is never broken.
    """
    table = Table(show_header=False, title="Run summary", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(summary, dataset_uri):
        table.add_row(name, value)
    text = io.StringIO()
    Console(file=text, width=WIDTH_CHARS, color_system=None).print(table)
    return f"{text.getvalue().rstrip()}\nreport: python jobs/report.py {shlex.quote(dataset_uri)}"


def _lines(summary: RunSummary, dataset_uri: str) -> list[tuple[str, str]]:
    lines = [
        ("data set", dataset_uri),
        ("captions", f"{summary.num_captions} in {format_duration(summary.elapsed_s)}"),
        ("failures", f"{summary.num_failures} ({summary.failure_share:.1%})"),
        *(
            (f"  {code}", f"{count} ({kind_of(code)})")
            for code, count in summary.failures_by_code.items()
        ),
        *((("tried again", f"{summary.num_retried}"),) if summary.num_retried else ()),
    ]
    return lines + decoding_lines(summary) if summary.num_captions else lines


def decoding_lines(summary: RunSummary) -> list[tuple[str, str]]:
    """How the captions (there must be some) were decoded, as names and values."""
    lines = [
        (
            "output tokens",
            f"{summary.output_tokens} ({summary.output_tokens / summary.num_captions:.0f} a clip), "
            f"{summary.output_tokens_per_s:.0f} tokens/s of decoding",
        ),
        *_acceptance_lines(summary),
        ("decoding time", _time_split(summary)),
        ("prefill time", f"{summary.prefill_s:.1f} s"),
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
    if shadow := summary.shadow:
        interval = f"[{shadow.equal_share_low:.1%}, {shadow.equal_share_high:.1%}]"
        lines.append(
            (
                "against exact decoding",
                f"same text for {shadow.equal_share:.1%} {interval} of {shadow.num_clips} clips, "
                f"{shadow.length_ratio:.3f} times as long",
            )
        )
        for kept in shadow.facts_kept:
            at = "" if kept.relaxed_share is None else f" at lambda {kept.relaxed_share:g}"
            text = f"{kept.mean:.2%} [{kept.low:.2%}, {kept.high:.2%}] of {kept.num_clips} clips"
            lines.append((f"facts kept{at}", text))
    return lines


def _acceptance_lines(summary: RunSummary) -> list[tuple[str, str]]:
    """How drafted tokens fared; of plain decoding nothing."""
    if not summary.drafted_tokens:
        return []
    lines = [
        (
            "mean accepted length",
            f"{summary.mean_accepted_length:.2f} drafted tokens a target step, without the bonus "
            f"({summary.accepted_tokens} of {summary.drafted_tokens} drafted)",
        ),
        (
            "tokens per target step",
            f"{summary.tokens_per_target_step:.2f}: the mean accepted length, and the target's own",
        ),
    ]
    low, high = summary.relaxed_share_min, summary.relaxed_share_max
    if low is not None or summary.relaxed_tokens or summary.shifted_tokens:
        accepted = max(1, summary.accepted_tokens)
        text = (
            f"{summary.relaxed_tokens / accepted:.1%} relaxed, "
            f"{summary.shifted_tokens / accepted:.1%} shifted"
        )
        if low is not None:
            text += f"; lambda {low:g}" if low == high else f"; lambda {low:g} to {high:g}"
        lines.append(("of the accepted", text))
    if summary.rejected_by_cause:
        total = sum(summary.rejected_by_cause.values())
        by_cause = sorted(summary.rejected_by_cause.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{cause} {count / total:.1%}" for cause, count in by_cause)
        lines.append(("rejections", f"{total} ({shares})"))
    return lines


def _time_split(summary: RunSummary) -> str:
    whole = summary.decode_s or 1.0
    named_s = summary.draft_s + summary.verify_s + summary.scoring_s
    return (
        f"{summary.decode_s:.1f} s: draft {summary.draft_s / whole:.1%}, "
        f"verify {summary.verify_s / whole:.1%}, scoring {summary.scoring_s / whole:.2%}, "
        f"rest {max(0.0, whole - named_s) / whole:.1%}"
    )

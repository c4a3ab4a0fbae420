"""The report of a run as one HTML page. Whatever comes from the data set is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.config_digest import mask_secrets
from pipeline.dataset.summary import RunStatus, RunSummary
from pipeline.progress import format_duration
from pipeline.report.html_charts import (
    HEIGHT,
    WIDTH,
    bars,
    facts_curve,
    histogram,
    lambda_curve,
)
from pipeline.report.html_clip import ClipView, clip_view
from pipeline.report.html_facts import FailureCause, ReportFacts
from pipeline.report.html_frames import KeyFrames
from pipeline.report.html_tokens import ANCHOR, KINDS
from pipeline.report.inline_page import SHARED, inline_page
from pipeline.report.summary_table import decoding_lines
from pipeline.storage.redaction import shown

_NO_ROW_TELLS = "model waits for frames"
_ENDINGS = {
    RunStatus.OVER_BUDGET.value: "This run had more failures than its budget bears.",
    RunStatus.INTERRUPTED.value: "This run was interrupted.",
    RunStatus.FAILED.value: "This run was ended by an error.",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure that is shown large."""

    name: str
    value: str
    unit: str = ""


def report_page(facts: ReportFacts, frames: KeyFrames) -> str:
    """The page, whole: styles, scripts and pictures are in it."""
    summary = facts.summary
    clips = [clip_view(clip, frames) for clip in facts.gallery]
    page = inline_page(
        SHARED,
        "report.html",
        styles=("look.css", "report.css"),
        scripts=("report.js",),
        sources={"img-src": "data:"},
        facts=facts,
        dataset=shown(facts.dataset_uri),
        ending=_ending(facts.metrics),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        span=_span(facts),
        tiles=_tiles(facts),
        lines=_lines(facts),
        accepted=histogram(summary.accepted_histogram) if summary.drafted_tokens else None,
        rejections=bars(sorted(summary.rejected_by_cause.items(), key=lambda item: -item[1])),
        times=bars(_times(summary), ",.1f", " s"),
        curves=[
            curve for curve in (facts_curve(facts.timeline), lambda_curve(facts.timeline)) if curve
        ],
        causes=_causes(facts.causes),
        cause_bars=bars([(cause.code, cause.count) for cause in facts.causes]),
        clips=clips,
        kinds=_kinds(clips),
        frames_stopped=mask_secrets(frames.stopped) if frames.stopped else None,
        num_unreadable=len(frames.unreadable),
        config_yaml=mask_secrets(facts.config_yaml),
        versions_json=mask_secrets(facts.versions_json),
        chart_width=WIDTH,
        chart_height=HEIGHT,
    )
    return page.html


def _ending(metrics: Mapping[str, Any] | None) -> str:
    """How the run ended, where that is not as it should; what it committed is good all the same."""
    if metrics is None:
        return "This run goes on, or was killed before its end."
    if metrics.get("ended_early"):
        return "This run ended early: its failure budget was spent."
    return _ENDINGS.get(metrics.get("status", ""), "")


def _span(facts: ReportFacts) -> str:
    """When the captions were made."""
    if not facts.timeline:
        return "no captions"
    first, last = facts.timeline[0][0], facts.timeline[-1][0]
    form = "%Y-%m-%d %H:%M"
    until = f" to {last:{form}}" if f"{first:{form}}" != f"{last:{form}}" else ""
    return f"captions of {first:{form}}{until} UTC"


def _tiles(facts: ReportFacts) -> list[Tile]:
    summary = facts.summary
    tiles = [
        Tile("captions", f"{summary.num_captions:,}"),
        Tile("failures", f"{summary.num_failures:,}", f"{summary.failure_share:.1%}"),
    ]
    if facts.metrics is not None:
        tiles.append(Tile("from start to end", format_duration(summary.elapsed_s)))
    if summary.num_captions:
        tiles.append(Tile("speed of decoding", f"{summary.output_tokens_per_s:,.0f}", "tokens/s"))
    if summary.drafted_tokens:
        tiles.append(Tile("mean accepted length", f"{summary.mean_accepted_length:.2f}"))
    if summary.plain:
        tiles.append(Tile("against plain decoding", f"{summary.plain.speed_up:.2f}", "times"))
    if summary.shadow and (kept := _facts_kept(summary)) is not None:
        tiles.append(Tile("facts kept", f"{kept:.1%}"))
    return tiles


def _facts_kept(summary: RunSummary) -> float | None:
    """Over all lambdas."""
    by_lambda = summary.shadow.facts_kept if summary.shadow else ()
    num_clips = sum(kept.num_clips for kept in by_lambda)
    return sum(kept.mean * kept.num_clips for kept in by_lambda) / num_clips if num_clips else None


def _lines(facts: ReportFacts) -> list[tuple[str, str]]:
    if not facts.summary.num_captions:
        return []
    lines = decoding_lines(facts.summary)
    return [line for line in lines if facts.metrics is not None or line[0] != _NO_ROW_TELLS]


def _times(summary: RunSummary) -> list[tuple[str, float]]:
    named_s = summary.draft_s + summary.verify_s + summary.scoring_s
    return [
        ("prefill", summary.prefill_s),
        ("draft", summary.draft_s),
        ("verify", summary.verify_s),
        ("scoring", summary.scoring_s),
        ("rest of decoding", max(0.0, summary.decode_s - named_s)),
    ]


def _causes(causes: Sequence[FailureCause]) -> list[dict[str, Any]]:
    return [
        {
            "code": cause.code,
            "kind": cause.kind,
            "count": cause.count,
            "examples": [
                {
                    "uri": shown(failure.video.uri),
                    "stage": failure.stage.value,
                    "message": shown(failure.message),
                }
                for failure in cause.examples
            ],
        }
        for cause in causes
    ]


def _kinds(clips: Sequence[ClipView]) -> list[dict[str, Any]]:
    """The legend: of the token sample that is shown."""
    pieces = [piece for clip in clips for piece in clip.pieces]
    counts = Counter(piece.kind for piece in pieces)
    counts["anchor"] = sum(piece.is_anchor for piece in pieces)
    words = {**KINDS, "anchor": ANCHOR}
    return [
        {"name": name, "meaning": meaning, "count": counts[name]}
        for name, meaning in words.items()
        if counts.total()
    ]

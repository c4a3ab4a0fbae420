"""Rows back to the records that they were made of: the inverse of schema.py's converters.

What no column holds is left at its least: the ids of tokens outside the token sample, the source's
rotation and its number of frames, the time of a plain prefill. Captions outside the token sample
have no decisions.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pipeline.dataset.schema import Row
from pipeline.records import (
    Caption,
    CaptionRecord,
    ClipSpec,
    DecodingStats,
    Failure,
    FinishReason,
    PlainComparison,
    ShadowComparison,
    Stage,
    TokenDecision,
    VideoInfo,
    VideoObject,
)

_STATS = tuple(field.name for field in fields(DecodingStats))


def caption_record(row: Row) -> CaptionRecord:
    """The record of a caption row that has all columns."""
    decisions = tuple(TokenDecision(**token) for token in row["tokens"] or ())
    caption = Caption(
        text=row["caption"],
        token_ids=tuple(decision.token_id for decision in decisions),
        finish_reason=FinishReason(row["finish_reason"]),
        stats=_stats(row),
        plain=_plain(row),
        shadow=_shadow(row),
        relaxed_share=row["relaxed_share"],
        decisions=decisions,
    )
    info = VideoInfo(
        container=row["container"],
        codec=row["codec"],
        width_px=row["width"],
        height_px=row["height"],
        rotation_deg=0,
        duration_s=row["duration_s"],
        fps=row["source_fps"],
        num_frames=0,
    )
    return CaptionRecord(
        spec=_spec(row),
        info=info,
        frames_digest=row["frames_digest"],
        frame_times_s=tuple(row["frame_times_s"]),
        caption=caption,
        video_decode_s=row["video_decode_s"],
        attempt=row["attempt"],
    )


def failure_record(row: Row) -> Failure:
    """The record of a failure row that has all columns."""
    return Failure(
        video=_video(row),
        spec=None if row["clip_index"] is None else _spec(row),
        stage=Stage(row["stage"]),
        code=row["code"],
        message=row["message"],
        attempt=row["attempt"],
    )


def _video(row: Row) -> VideoObject:
    return VideoObject(row["source_uri"], row["source_etag"], row["source_size"])


def _spec(row: Row) -> ClipSpec:
    place = row["clip_index"], row["num_clips"], row["start_s"], row["end_s"]
    return ClipSpec(_video(row), *place)


def _stats(row: Row) -> DecodingStats:
    values: dict[str, Any] = {name: row[name] for name in _STATS}
    values["rejected_by_cause"] = dict(row["rejected_by_cause"])
    values["accepted_histogram"] = tuple(row["accepted_histogram"])
    values["scoring_s"] = row["scoring_s"] or 0.0  # a column that came later
    return DecodingStats(**values)


def _plain(row: Row) -> PlainComparison | None:
    if row["plain_equal"] is None:
        return None
    return PlainComparison(
        row["plain_equal"], 0.0, row["plain_decode_s"], row["plain_output_tokens"]
    )


def _shadow(row: Row) -> ShadowComparison | None:
    if row["shadow_equal"] is None:
        return None
    return ShadowComparison(
        row["shadow_equal"], row["shadow_output_tokens"], row["shadow_facts_kept"]
    )

"""The columns of the data set, and pure converters from records to rows.

A row is a plain dict whose keys are exactly the schema's names. One caption row per clip and
prompt; one failure row per clip, or per video that has no clip plan (``clip_index`` is null).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.records import CaptionRecord, Failure, TokenDecision, VideoObject

Row = Mapping[str, Any]

_TIMESTAMP = pa.timestamp("us", tz="UTC")


def _required(**columns: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in columns.items()]


def _optional(**columns: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind) for name, kind in columns.items()]


_SOURCE = _required(
    video_id=pa.string(), source_uri=pa.string(), source_etag=pa.string(), source_size=pa.int64()
)
_RUN = _required(
    attempt=pa.int32(), config_digest=pa.string(), run_id=pa.string(), created_at=_TIMESTAMP
)

_TOKEN = pa.struct(
    [
        *_required(
            token_id=pa.int32(), text=pa.string(), kind=pa.string(), target_token_id=pa.int32()
        ),
        *_optional(anchor_score=pa.float64(), anchor_rank=pa.float64()),
    ]
)

CAPTIONS = pa.schema(
    [
        *_SOURCE,
        *_required(
            clip_id=pa.string(),
            clip_index=pa.int32(),
            num_clips=pa.int32(),
            start_s=pa.float64(),
            end_s=pa.float64(),
            width=pa.int32(),
            height=pa.int32(),
            source_fps=pa.float64(),
            duration_s=pa.float64(),
            codec=pa.string(),
            container=pa.string(),
            num_frames=pa.int32(),
            frame_times_s=pa.list_(pa.float64()),
            frames_digest=pa.string(),
            video_decode_s=pa.float64(),
            prompt_id=pa.string(),
            model_id=pa.string(),
        ),
        *_optional(
            model_revision=pa.string(), draft_model_id=pa.string(), draft_model_revision=pa.string()
        ),
        *_required(
            caption=pa.string(),
            finish_reason=pa.string(),
            prompt_tokens=pa.int32(),
            visual_tokens=pa.int32(),
            output_tokens=pa.int32(),
            target_steps=pa.int32(),
            drafted_tokens=pa.int32(),
            accepted_tokens=pa.int32(),
            relaxed_tokens=pa.int32(),
            shifted_tokens=pa.int32(),
            anchor_tokens=pa.int32(),
            correction_tokens=pa.int32(),
            bonus_tokens=pa.int32(),
            rejected_by_cause=pa.map_(pa.string(), pa.int32()),
            accepted_histogram=pa.list_(pa.int32()),
            mean_accepted_length=pa.float64(),
            prefill_s=pa.float64(),
            draft_s=pa.float64(),
            verify_s=pa.float64(),
            decode_s=pa.float64(),
        ),
        *_optional(
            plain_equal=pa.bool_(), plain_decode_s=pa.float64(), plain_output_tokens=pa.int32()
        ),
        # came later: nullable, so that parts without them still fit (see ``fits``)
        *_optional(
            scoring_s=pa.float64(),
            relaxed_share=pa.float64(),
            shadow_equal=pa.bool_(),
            shadow_output_tokens=pa.int32(),
            shadow_facts_kept=pa.float64(),
            tokens=pa.list_(_TOKEN),
        ),
        *_RUN,
    ]
)

FAILURES = pa.schema(
    [
        *_SOURCE,
        *_required(clip_id=pa.string()),
        *_optional(
            clip_index=pa.int32(), num_clips=pa.int32(), start_s=pa.float64(), end_s=pa.float64()
        ),
        *_required(stage=pa.string(), code=pa.string(), message=pa.string()),
        # came later, as above: of a row without it the code tells
        *_optional(kind=pa.string()),
        *_RUN,
    ]
)


@dataclass(frozen=True, slots=True)
class RunLabels:
    """What every row of a run says about the run."""

    run_id: str
    config_digest: str
    prompt_id: str
    model_id: str
    model_revision: str | None
    draft_model_id: str | None
    draft_model_revision: str | None

    @classmethod
    def of(cls, config: RunConfig, digest: str, run_id: str) -> RunLabels:
        """Labels of a run by a config whose revisions are resolved, and the digest of it."""
        draft = config.effective_draft
        return cls(
            run_id=run_id,
            config_digest=digest,
            prompt_id=config.prompt.id,
            model_id=_model_id(config.models.target.name),
            model_revision=config.models.target.revision,
            draft_model_id=_model_id(draft.name) if draft else None,
            draft_model_revision=draft.revision if draft else None,
        )


def caption_row(record: CaptionRecord, labels: RunLabels, created_at: datetime) -> dict[str, Any]:
    """The caption row of a record; ``created_at`` must carry its time zone."""
    spec, info, caption = record.spec, record.info, record.caption
    stats, plain, shadow = caption.stats, caption.plain, caption.shadow
    return {
        **_source_columns(spec.video),
        "clip_id": spec.clip_id,
        "clip_index": spec.clip_index,
        "num_clips": spec.num_clips,
        "start_s": spec.start_s,
        "end_s": spec.end_s,
        "width": info.width_px,
        "height": info.height_px,
        "source_fps": info.fps,
        "duration_s": info.duration_s,
        "codec": info.codec,
        "container": info.container,
        "num_frames": len(record.frame_times_s),
        "frame_times_s": list(record.frame_times_s),
        "frames_digest": record.frames_digest,
        "video_decode_s": record.video_decode_s,
        "prompt_id": labels.prompt_id,
        "model_id": labels.model_id,
        "model_revision": labels.model_revision,
        "draft_model_id": labels.draft_model_id,
        "draft_model_revision": labels.draft_model_revision,
        "caption": _text(caption.text),
        "finish_reason": caption.finish_reason.value,
        "prompt_tokens": stats.prompt_tokens,
        "visual_tokens": stats.visual_tokens,
        "output_tokens": stats.output_tokens,
        "target_steps": stats.target_steps,
        "drafted_tokens": stats.drafted_tokens,
        "accepted_tokens": stats.accepted_tokens,
        "relaxed_tokens": stats.relaxed_tokens,
        "shifted_tokens": stats.shifted_tokens,
        "anchor_tokens": stats.anchor_tokens,
        "correction_tokens": stats.correction_tokens,
        "bonus_tokens": stats.bonus_tokens,
        "rejected_by_cause": sorted(stats.rejected_by_cause.items()),
        "accepted_histogram": list(stats.accepted_histogram),
        "mean_accepted_length": stats.mean_accepted_length,
        "prefill_s": stats.prefill_s,
        "draft_s": stats.draft_s,
        "verify_s": stats.verify_s,
        "decode_s": stats.decode_s,
        "scoring_s": stats.scoring_s,
        "plain_equal": plain.equal if plain else None,
        "plain_decode_s": plain.decode_s if plain else None,
        "plain_output_tokens": plain.output_tokens if plain else None,
        "relaxed_share": caption.relaxed_share,
        "shadow_equal": shadow.equal if shadow else None,
        "shadow_output_tokens": shadow.output_tokens if shadow else None,
        "shadow_facts_kept": shadow.facts_kept if shadow else None,
        "tokens": [_token(decision) for decision in caption.decisions] or None,
        **_run_columns(record.attempt, labels, created_at),
    }


def failure_row(failure: Failure, labels: RunLabels, created_at: datetime) -> dict[str, Any]:
    """The failure row of a clip or of a whole video."""
    spec = failure.spec
    return {
        **_source_columns(failure.video),
        "clip_id": failure.clip_id,
        "clip_index": spec.clip_index if spec else None,
        "num_clips": spec.num_clips if spec else None,
        "start_s": spec.start_s if spec else None,
        "end_s": spec.end_s if spec else None,
        "stage": failure.stage.value,
        "code": failure.code,
        "kind": failure.kind.value,
        "message": _text(failure.message),
        **_run_columns(failure.attempt, labels, created_at),
    }


def fits(part: pa.Schema, table: pa.Schema) -> bool:
    """Whether a part's rows are rows of the table: columns that it lacks must be nullable."""
    return all(
        part.field(field.name).equals(field) if field.name in part.names else field.nullable
        for field in table
    ) and set(part.names) <= set(table.names)


def _token(decision: TokenDecision) -> dict[str, Any]:
    return asdict(decision) | {"text": _text(decision.text)}


def _source_columns(video: VideoObject) -> dict[str, Any]:
    return {
        "video_id": video.video_id,
        "source_uri": _text(video.uri),
        "source_etag": video.etag,
        "source_size": video.size_bytes,
    }


def _run_columns(attempt: int, labels: RunLabels, created_at: datetime) -> dict[str, Any]:
    return {
        "attempt": attempt,
        "config_digest": labels.config_digest,
        "run_id": labels.run_id,
        "created_at": created_at,
    }


def _model_id(name: str) -> str:
    """A hub name as it is; of an absolute folder the last two names, which fit every machine."""
    path = PurePath(name)
    return "/".join(path.parts[1:][-2:]) if path.is_absolute() else name


def _text(value: str) -> str:
    """Text that UTF-8 can hold: a file name of other bytes shows them as ``\\xff``.

    The ids are of the original name, so nothing depends on this spelling.
    """
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

"""Records and rows of a small made-up corpus, and a storage in memory that can pause writers."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO

from pipeline.dataset.schema import RunLabels, caption_row, failure_row
from pipeline.records import (
    Caption,
    CaptionRecord,
    ClipSpec,
    DecodingStats,
    Failure,
    FinishReason,
    PlainComparison,
    Stage,
    VideoInfo,
    VideoObject,
)
from pipeline.storage import AlreadyExistsError, NotFoundError

CREATED_AT = datetime(2026, 11, 22, 20, 0, 0, 123456, tzinfo=UTC)
LABELS = RunLabels(
    run_id="run-1",
    config_digest="0123456789abcdef",
    prompt_id="default",
    model_id="big",
    model_revision="abc",
    draft_model_id="small",
    draft_model_revision=None,
)
STATS = DecodingStats(
    prompt_tokens=50,
    visual_tokens=36,
    output_tokens=11,
    target_steps=4,
    drafted_tokens=12,
    accepted_tokens=7,
    relaxed_tokens=2,
    shifted_tokens=1,
    anchor_tokens=3,
    correction_tokens=3,
    bonus_tokens=1,
    rejected_by_cause={"mismatch": 2, "anchor": 1},
    accepted_histogram=(1, 1, 0, 2),
    prefill_s=0.1,
    draft_s=0.2,
    verify_s=0.29,
    decode_s=0.5,
    scoring_s=0.01,
)


def video(name: str, etag: str = "e1") -> VideoObject:
    return VideoObject(uri=f"s3://corpus/{name}.mp4", etag=etag, size_bytes=1000)


def clip(name: str, index: int = 0, num_clips: int = 1, etag: str = "e1") -> ClipSpec:
    return ClipSpec(video(name, etag), index, num_clips, index * 10.0, index * 10.0 + 10.0)


def record(
    spec: ClipSpec, plain: PlainComparison | None = None, text: str = "", **more: Any
) -> CaptionRecord:
    """``more`` are fields of the Caption."""
    info = VideoInfo("mov,mp4", "h264", 640, 360, 0, spec.num_clips * 10.0, 25.0, 250)
    caption = Caption(
        text=text or f"Caption of {spec.clip_id}",
        token_ids=tuple(range(11)),
        finish_reason=FinishReason.STOP,
        stats=STATS,
        plain=plain,
        **more,
    )
    return CaptionRecord(spec, info, "f" * 32, (0.0, 1.5), caption, video_decode_s=0.25, attempt=1)


def caption_of(spec: ClipSpec, labels: RunLabels = LABELS, **more: Any) -> dict[str, Any]:
    return caption_row(record(spec, **more), labels, CREATED_AT)


def failure_of(spec: ClipSpec | None, source: VideoObject | None = None) -> dict[str, Any]:
    """The failure row of a clip, or of the whole video ``source``."""
    owner = spec.video if spec else source
    assert owner is not None
    failure = Failure(owner, spec, Stage.DECODE, "truncated", "half a file", attempt=2)
    return failure_row(failure, LABELS, CREATED_AT)


class MemoryStorage:
    """Objects in a dict. ``gate(operation, uri)`` is called before every operation takes effect."""

    def __init__(self, gate: Callable[[str, str], None] = lambda operation, uri: None) -> None:
        self.objects: dict[str, bytes] = {}
        self.gate = gate
        self._lock = threading.Lock()

    def list(self, uri: str) -> Iterator[VideoObject]:
        self.gate("list", uri)
        prefix = uri.rstrip("/") + "/"
        for name in sorted(self.objects):
            if name.startswith(prefix):
                yield self.stat(name)

    def stat(self, uri: str) -> VideoObject:
        return VideoObject(uri, "e", len(self.read_bytes(uri)))

    def open(self, uri: str, etag: str | None = None) -> BinaryIO:
        return io.BytesIO(self.read_bytes(uri))

    def read_bytes(self, uri: str) -> bytes:
        if uri not in self.objects:
            raise NotFoundError(uri, "no such object")
        return self.objects[uri]

    def put(self, uri: str, data: bytes) -> None:
        self.gate("put", uri)
        self.objects[uri] = data

    def put_if_absent(self, uri: str, data: bytes) -> None:
        self.gate("put", uri)
        with self._lock:
            if uri in self.objects:
                raise AlreadyExistsError(uri, "exists already")
            self.objects[uri] = data

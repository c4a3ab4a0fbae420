"""A plan as written: ``runs/<run id>/plan/part-*.parquet``, and ``plan.json`` when it is whole.

Whoever captions reads it from there, a part at a time, and so can who checks a run afterwards: a
video is in the plan of a run if it is in these parts, and they are all if ``plan.json`` is there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.catalog import PlannedVideo, Reason
from pipeline.dataset.layout import Layout
from pipeline.dataset.plan import Plan, PlanCounts
from pipeline.dataset.plan_uris import row_uri
from pipeline.records import VideoObject
from pipeline.storage import Storage

ROWS_PER_PART = 10_000
"""About 1 MB a part: what a reader holds, and what is lost of a plan that is not finished."""

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("uri_bytes", pa.binary()),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("done_clip_ids", pa.list_(pa.string()), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""One row for each planned video. ``uri`` is spelt as in the data set's rows; ``uri_bytes`` has the
name itself where that is no UTF-8 (a local file), else nothing."""


@dataclass(frozen=True, slots=True)
class PlanSlice:
    """Rows [start, stop) of one part: what a worker is handed instead of the videos."""

    part_uri: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """A whole plan in storage; iterating reads it, a part at a time (StorageError)."""

    storage: Storage
    parts: tuple[PlanSlice, ...]
    """Each part as a whole."""
    counts: PlanCounts
    num_done_clips: dict[str, int]
    """Of the videos, by id, that are planned with some clips done."""

    @property
    def num_videos(self) -> int:
        """Rows."""
        return self.counts.num_videos

    def __iter__(self) -> Iterator[PlannedVideo]:
        for part in self.parts:
            yield from PlanReader(self.storage).read(part)

    def slices(self, max_slices: int) -> Iterator[PlanSlice]:
        """All rows in order, one a slice while that gives no more than ``max_slices``.

        A slice ends with its part, so there can be as many more as there are parts.
        """
        num_rows = -(-self.num_videos // max_slices)
        for part in self.parts:
            for start in range(0, part.stop, num_rows):
                yield PlanSlice(part.part_uri, start, min(start + num_rows, part.stop))


class PlanReader:
    """Reads slices; the last part stays in memory, as the next slice is mostly of it as well."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._part_uri: str | None = None
        self._rows: pa.Table | None = None

    def read(self, rows: PlanSlice) -> Iterator[PlannedVideo]:
        """The videos of a slice, in order. Raises StorageError."""
        if self._rows is None or self._part_uri != rows.part_uri:
            data = self._storage.read_bytes(rows.part_uri)
            self._rows, self._part_uri = pq.read_table(io.BytesIO(data)), rows.part_uri
        for row in self._rows.slice(rows.start, rows.stop - rows.start).to_pylist():
            name = row["uri_bytes"]
            uri = row["uri"] if name is None else name.decode("utf-8", "surrogateescape")
            video = VideoObject(uri, row["etag"], row["size_bytes"])
            yield PlannedVideo(video, frozenset(row["done_clip_ids"]), Reason(row["reason"]))


def write_plan(storage: Storage, layout: Layout, run_id: str, plan: Plan) -> WrittenPlan:
    """Write a plan as it streams. Raises what iterating it does, and StorageError."""
    parts: list[PlanSlice] = []
    num_done_clips: dict[str, int] = {}
    rows: list[PlannedVideo] = []

    def put() -> None:
        uri = layout.plan_part_uri(run_id, len(parts) + 1)
        storage.put(uri, encode_plan(rows))
        parts.append(PlanSlice(uri, 0, len(rows)))
        rows.clear()

    for planned in plan:
        rows.append(planned)
        if planned.done_clip_ids:
            num_done_clips[planned.video.video_id] = len(planned.done_clip_ids)
        if len(rows) == ROWS_PER_PART:
            put()
    if rows:
        put()
    whole = {"num_parts": len(parts), **plan.counts.as_json()}
    storage.put(
        layout.run_file_uri(run_id, "plan.json"), json.dumps(whole, indent=2).encode() + b"\n"
    )
    return WrittenPlan(storage, tuple(parts), plan.counts, num_done_clips)


def encode_plan(rows: Sequence[PlannedVideo]) -> bytes:
    """Parquet (zstd) of a part."""
    uris = [row.video.uri for row in rows]
    shown = [row_uri(uri) for uri in uris]
    columns = {
        "uri": shown,
        "uri_bytes": [
            None if text == uri else uri.encode("utf-8", "surrogateescape")
            for uri, text in zip(uris, shown, strict=True)
        ],
        "etag": [row.video.etag for row in rows],
        "size_bytes": [row.video.size_bytes for row in rows],
        "video_id": [row.video.video_id for row in rows],
        "done_clip_ids": [sorted(row.done_clip_ids) for row in rows],
        "reason": [row.reason.value for row in rows],
    }
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pydict(columns, schema=SCHEMA), sink, compression="zstd")
    return sink.getvalue()

"""Which failure rows stand: a table of attempts, read as what is known of each clip now.

Nothing is rewritten, so a clip that was tried again has several rows. A failure row is *superseded*

- of a clip: by a caption of the clip, or by a failure row of it with a higher attempt;
- of a whole video: by one of the whole video with a higher attempt, or once every clip of its plan
  has a row.

All others stand. verify.py counts by the same rule, over everything at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import PartList, add_done, iter_part, read_done
from pipeline.dataset.plan_ahead import ahead
from pipeline.failure_kinds import FailureKind, kind_of
from pipeline.storage import Storage

_COLUMNS = ("video_id", "clip_id", "num_clips", "attempt", "code", "kind")
_CLIP_COLUMNS = ["video_id", "clip_id", "num_clips"]
_NUM_READERS = 8  # parts read at a time: round trips, more than bytes

PartUris = Mapping[Table, Sequence[str]]
"""Which parts to read."""


@dataclass(frozen=True, slots=True)
class FailedClip:
    """What a failure row says; ``num_clips`` is None of a whole video's."""

    video_id: str
    clip_id: str
    num_clips: int | None
    attempt: int
    code: str
    kind: FailureKind


@dataclass(frozen=True, slots=True)
class FailureRows:
    """The failure rows of a data set, by clip id; memory grows with the clips that ever failed."""

    newest: Mapping[str, FailedClip]
    """Of each clip the row with the highest attempt."""
    standing: Mapping[str, FailedClip]
    """Of these, the ones that nothing supersedes."""
    num_rows: int
    """All of them."""

    def stands(self, clip_id: str, attempt: int) -> bool:
        """Whether this row of a clip stands."""
        found = self.standing.get(clip_id)
        return found is not None and found.attempt == attempt


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a data set stands for who goes on with it, failures to be tried again left out."""

    done: DoneClips
    last_attempts: Mapping[str, int]
    """Attempts so far, by the id of a clip (or whole video) that failed; empty if nothing is to be
    tried again."""
    retried_video_ids: frozenset[str]
    """Videos of which some failure is to be tried again."""


def read_standing(
    storage: Storage, layout: Layout, parts: PartList, retry: frozenset[FailureKind]
) -> Standing:
    """What is done, but for standing failures of the kinds to ``retry``. Raises StorageError."""
    if not retry:
        return Standing(read_done(storage, layout, parts), {}, frozenset())
    failures = read_failures(storage, part_uris(layout, parts))
    done = DoneClips()
    add_done(done, storage, layout, Table.CAPTIONS, parts)
    retried_video_ids = set()
    for failed in failures.standing.values():
        if failed.kind in retry:
            retried_video_ids.add(failed.video_id)
        else:
            done.add(failed.video_id, failed.clip_id, failed.num_clips)
    last_attempts = {clip_id: failed.attempt for clip_id, failed in failures.newest.items()}
    return Standing(done, last_attempts, frozenset(retried_video_ids))


def part_uris(layout: Layout, parts: PartList, since: int = 0) -> PartUris:
    """The parts of the commits after ``since``."""
    return {
        table: [layout.part_uri(table, n) for n in parts.of(table) if n > since] for table in Table
    }


def read_failures(storage: Storage, uris: PartUris) -> FailureRows:
    """Read the failures, and the ids of captions if some clip was ever tried again.

    Raises StorageError; a damaged part's ArrowException goes through.
    """
    num_rows = 0
    newest: dict[str, FailedClip] = {}
    for uri in uris[Table.FAILURES]:
        for row in iter_part(storage, uri, _COLUMNS):
            num_rows += 1
            failed = _failed(row)
            before = newest.get(failed.clip_id)
            if before is None or before.attempt < failed.attempt:
                newest[failed.clip_id] = failed
    captions = uris[Table.CAPTIONS]
    if not newest or not _has_retries(storage, captions, newest.values()):
        return FailureRows(newest, newest, num_rows)
    captioned = _captioned(storage, captions, newest)
    return FailureRows(newest, _without_superseded(newest, captioned), num_rows)


def _has_retries(storage: Storage, captions: Sequence[str], failures: Iterable[FailedClip]) -> bool:
    """Whether any row is of a later attempt than the first: if none is, none supersedes another."""
    if any(failed.attempt > 1 for failed in failures):
        return True
    return any(ahead(partial(_has_later_attempts, storage), captions, _NUM_READERS))


def _failed(row: Mapping[str, object]) -> FailedClip:
    values = dict(row)
    kind = values.pop("kind")
    code = str(values["code"])
    return FailedClip(**values, kind=FailureKind(kind) if kind else kind_of(code))  # type: ignore[arg-type]


def _has_later_attempts(storage: Storage, part_uri: str) -> bool:
    """Whether a part has a row of an attempt after the first: its footer tells."""
    with storage.open(part_uri) as stream:
        metadata = pq.ParquetFile(stream).metadata
    for index in range(metadata.num_row_groups):
        statistics = _column(metadata.row_group(index), "attempt").statistics
        if statistics is None or not statistics.has_min_max or statistics.max > 1:
            return True
    return False


def _column(group: pq.RowGroupMetaData, name: str) -> pq.ColumnChunkMetaData:
    columns = (group.column(index) for index in range(group.num_columns))
    return next(column for column in columns if column.path_in_schema == name)


_Clip = tuple[str, str, int]


def _captioned(
    storage: Storage, captions: Iterable[str], newest: Mapping[str, FailedClip]
) -> Iterator[_Clip]:
    """Captions of clips that failed, and of videos that failed as a whole."""
    clips = pa.array(newest, pa.string())
    whole = {failed.video_id for failed in newest.values() if failed.num_clips is None}
    videos = pa.array(whole, pa.string())
    for found in ahead(partial(_matching, storage, clips, videos), captions, _NUM_READERS):
        yield from found


def _matching(storage: Storage, clips: pa.Array, videos: pa.Array, part_uri: str) -> list[_Clip]:
    with storage.open(part_uri) as stream:
        rows = pq.read_table(stream, columns=_CLIP_COLUMNS)
    wanted = pc.or_(
        pc.is_in(rows.column("clip_id"), clips), pc.is_in(rows.column("video_id"), videos)
    )
    return [tuple(row.values()) for row in rows.filter(wanted).select(_CLIP_COLUMNS).to_pylist()]


def _without_superseded(
    newest: Mapping[str, FailedClip], captioned: Iterable[_Clip]
) -> dict[str, FailedClip]:
    captioned_ids: set[str] = set()
    clips_of: defaultdict[str, set[str]] = defaultdict(set)
    num_clips_of: dict[str, int] = {}
    failed = ((f.video_id, f.clip_id, f.num_clips) for f in newest.values() if f.num_clips)
    for video_id, clip_id, num_clips in failed:
        clips_of[video_id].add(clip_id)
        num_clips_of[video_id] = num_clips
    for video_id, clip_id, num_clips in captioned:
        captioned_ids.add(clip_id)
        clips_of[video_id].add(clip_id)
        num_clips_of[video_id] = num_clips

    def stands(failed: FailedClip) -> bool:
        if failed.num_clips is not None:
            return failed.clip_id not in captioned_ids
        num_clips = num_clips_of.get(failed.video_id)
        return num_clips is None or len(clips_of[failed.video_id]) < num_clips

    return {clip_id: failed for clip_id, failed in newest.items() if stands(failed)}

"""Is a data set whole? Every clip once, counters that add up, parts without gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import PartList, iter_rows, list_parts
from pipeline.dataset.schema import Row, fits
from pipeline.records import VideoObject
from pipeline.storage import Storage

_MAX_PROBLEMS = 100
_CLIP_COLUMNS = ("video_id", "clip_id", "clip_index", "num_clips", "source_uri", "config_digest")
_COUNTERS = (
    "output_tokens",
    "target_steps",
    "drafted_tokens",
    "accepted_tokens",
    "relaxed_tokens",
    "shifted_tokens",
    "anchor_tokens",
    "correction_tokens",
    "bonus_tokens",
    "rejected_by_cause",
    "accepted_histogram",
)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found. ``problems`` holds the first hundred; ``num_problems`` counts all."""

    uri: str
    num_commits: int
    num_captions: int
    num_failures: int
    num_videos: int
    num_problems: int
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.num_problems == 0


def verify(
    storage: Storage, dataset_uri: str, videos: Iterable[VideoObject] | None = None
) -> VerifyReport:
    """Read a whole data set (one config digest) and check it.

    With ``videos`` (the corpus, see catalog.list_videos) every one of them must be complete;
    without, only the videos that have a row. Raises StorageError; a damaged part is a problem of
    the storage, so its ArrowException goes through.
    """
    layout = Layout(dataset_uri.rstrip("/"))
    parts = list_parts(storage, layout)
    clips = _Clips(layout)
    problems = [*_part_problems(storage, layout, parts)]
    for table in Table:
        columns = _CLIP_COLUMNS + (_COUNTERS if table is Table.CAPTIONS else ())
        for row in iter_rows(storage, layout, table, columns, parts):
            problems.extend(clips.take(table, row))
            if table is Table.CAPTIONS:
                problems.extend(counter_problems(row))
    problems.extend(clips.incomplete())
    problems.extend(
        f"no row for the video {video.uri}"
        for video in videos or ()
        if video.video_id not in clips.plans
    )
    return VerifyReport(
        uri=layout.uri,
        num_commits=parts.last,
        num_captions=clips.rows[Table.CAPTIONS],
        num_failures=clips.rows[Table.FAILURES],
        num_videos=len(clips.plans),
        num_problems=len(problems),
        problems=tuple(problems[:_MAX_PROBLEMS]),
    )


@dataclass(slots=True)
class _Plan:
    """What the rows of one video say."""

    uri: str
    num_clips: int | None
    indexes: set[int]
    has_whole_failure: bool


class _Clips:
    """Every clip seen so far."""

    def __init__(self, layout: Layout) -> None:
        self.rows: Counter[Table] = Counter()
        self.plans: dict[str, _Plan] = {}
        self._digest = layout.uri.rpartition("/")[2]
        self._seen: dict[str, Table] = {}

    def take(self, table: Table, row: Row) -> Iterator[str]:
        """Note a row; what is wrong with it."""
        self.rows[table] += 1
        clip_id, where = row["clip_id"], f"clip {row['clip_id']} of {row['source_uri']}"
        if clip_id in self._seen:
            first = self._seen[clip_id]
            kind = f"in {first} and {table}" if first is not table else f"twice in {table}"
            yield f"{where} is {kind}"
        self._seen[clip_id] = table
        if row["config_digest"] != self._digest:
            yield f"{where} has the config digest {row['config_digest']}, not {self._digest}"
        plan = self.plans.setdefault(
            row["video_id"], _Plan(row["source_uri"], None, set(), has_whole_failure=False)
        )
        if row["num_clips"] is None:
            plan.has_whole_failure = True
            return
        if plan.num_clips not in (None, row["num_clips"]):
            yield f"{where} says {row['num_clips']} clips, another row {plan.num_clips}"
        plan.num_clips = row["num_clips"]
        plan.indexes.add(row["clip_index"])

    def incomplete(self) -> Iterator[str]:
        """Videos some of whose clips have no row."""
        for plan in self.plans.values():
            if plan.has_whole_failure or plan.num_clips is None:
                continue
            missing = set(range(plan.num_clips)) - plan.indexes
            if missing:
                yield f"{len(missing)} of {plan.num_clips} clips of {plan.uri} have no row"


def counter_problems(row: Row) -> Iterator[str]:
    """What does not add up in one caption row (docs/architecture.md, schema)."""
    histogram = row["accepted_histogram"]
    claims = {
        "accepted + correction + bonus tokens are the output tokens": (
            row["accepted_tokens"] + row["correction_tokens"] + row["bonus_tokens"]
            == row["output_tokens"]
        ),
        "relaxed and shifted tokens are among the accepted": (
            row["relaxed_tokens"] + row["shifted_tokens"] <= row["accepted_tokens"]
        ),
        "accepted tokens are among the drafted": row["accepted_tokens"] <= row["drafted_tokens"],
        "anchors are among the drafted": row["anchor_tokens"] <= row["drafted_tokens"],
        "a target step rejects once at most": (
            sum(dict(row["rejected_by_cause"]).values()) <= row["target_steps"]
        ),
        "the histogram has every target step": sum(histogram) == row["target_steps"],
        "the histogram has every accepted token": (
            sum(length * steps for length, steps in enumerate(histogram)) == row["accepted_tokens"]
        ),
    }
    for claim, holds in claims.items():
        if not holds:
            yield f"clip {row['clip_id']} of {row['source_uri']}: it is not so that {claim}"


def _part_problems(storage: Storage, layout: Layout, parts: PartList) -> Iterator[str]:
    missing = sorted(set(range(1, parts.last + 1)) - set(parts.captions))
    for number in missing:
        yield f"{layout.part_uri(Table.CAPTIONS, number)} is missing"
    for table in Table:
        for number in parts.of(table):
            uri = layout.part_uri(table, number)
            with storage.open(uri) as stream:
                if not fits(pq.read_schema(stream), table.schema):
                    yield f"{uri} has another schema than {table} of this version"

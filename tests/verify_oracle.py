"""The row-by-row verification that pipeline/dataset/verify.py must agree with: slow and plain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows, list_parts
from pipeline.records import VideoObject
from pipeline.storage import Storage


def oracle_problems(
    storage: Storage, layout: Layout, videos: Iterable[VideoObject] = ()
) -> list[str]:
    """Every problem of a data set whose parts have the right schema."""
    parts = list_parts(storage, layout)
    clips = _Clips(layout)
    problems = [
        f"{layout.part_uri(Table.CAPTIONS, number)} is missing"
        for number in sorted(set(range(1, parts.last + 1)) - set(parts.captions))
    ]
    for table in Table:
        for row in iter_rows(storage, layout, table, parts=parts):
            problems.extend(clips.take(table, row))
            if table is Table.CAPTIONS:
                problems.extend(oracle_counter_problems(row))
    problems.extend(clips.incomplete())
    problems.extend(
        f"no row for the video {video.uri}"
        for video in {video.video_id: video for video in videos}.values()
        if video.video_id not in clips.plans
    )
    return problems


@dataclass
class _Plan:
    uri: str
    num_clips: int | None = None
    clip_ids: dict[int, str] = field(default_factory=dict)
    has_whole_failure: bool = False


class _Clips:
    def __init__(self, layout: Layout) -> None:
        self.plans: dict[str, _Plan] = {}
        self._digest = layout.uri.rpartition("/")[2]
        self._captioned_at: dict[str, int] = {}
        self.failed_at: dict[str, set[int]] = {}

    def take(self, table: Table, row: dict[str, Any]) -> Iterator[str]:
        clip_id, where = row["clip_id"], f"clip {row['clip_id']} of {row['source_uri']}"
        attempt = row["attempt"]
        if table is Table.CAPTIONS:  # all of them come first
            if clip_id in self._captioned_at:
                yield f"{where} is twice in captions"
            before = self._captioned_at.get(clip_id, attempt)
            self._captioned_at[clip_id] = min(before, attempt)
        else:
            failed_at = self.failed_at.setdefault(clip_id, set())
            if self._captioned_at.get(clip_id, attempt + 1) <= attempt:
                yield f"{where} is in captions and failures of no earlier attempt"
            elif attempt in failed_at:
                yield f"{where} is twice in failures with the attempt {attempt}"
            failed_at.add(attempt)
        if row["config_digest"] != self._digest:
            yield f"{where} has the config digest {row['config_digest']}, not {self._digest}"
        plan = self.plans.setdefault(row["video_id"], _Plan(row["source_uri"]))
        if row["num_clips"] is None:
            plan.has_whole_failure = True
            return
        index = row["clip_index"]
        if not 0 <= index < row["num_clips"]:
            yield f"{where} has the index {index} of {row['num_clips']} clips"
        if plan.num_clips not in (None, row["num_clips"]):
            yield f"{where} says {row['num_clips']} clips, another row {plan.num_clips}"
        if plan.clip_ids.get(index, clip_id) != clip_id:
            yield f"{where} has the index {index}, which is another clip's"
        plan.num_clips = row["num_clips"]
        plan.clip_ids[index] = clip_id

    def incomplete(self) -> Iterator[str]:
        for plan in self.plans.values():
            if plan.has_whole_failure or plan.num_clips is None:
                continue
            missing = set(range(plan.num_clips)) - set(plan.clip_ids)
            if missing:
                yield f"{len(missing)} of {plan.num_clips} clips of {plan.uri} have no row"


def oracle_counter_problems(row: dict[str, Any]) -> Iterator[str]:
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

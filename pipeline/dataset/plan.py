"""What is left to do: the listing, streamed past the ids of what is done.

Memory grows with what the data sets hold, by some 40 bytes a video (ids, see plan_ids.py), and not
with the listing: no names are kept, nothing is sorted, nothing spills to a disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo, Reason, list_videos, listed_prefix
from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout
from pipeline.dataset.plan_uris import WrittenUris, row_uri_id
from pipeline.records import VideoObject
from pipeline.storage import Storage


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """A plan in numbers, of videos unless they say otherwise."""

    by_reason: dict[Reason, int]
    num_bytes: int
    """Of the planned videos together."""
    num_done: int
    """Listed, and complete in this version."""
    num_deleted: int | None
    """Names below the input folder that have rows and are not listed any more; None where that
    can't be told: the limit ended the listing, or a manifest or one file is the input."""

    @property
    def num_videos(self) -> int:
        """Planned videos."""
        return sum(self.by_reason.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "num_videos": self.num_videos,
            "num_bytes": self.num_bytes,
            "num_by_reason": {reason.value: self.by_reason.get(reason, 0) for reason in Reason},
            "num_done": self.num_done,
            "num_deleted": self.num_deleted,
        }

    def __str__(self) -> str:
        reasons = [
            f"{self.by_reason.get(reason, 0)} {reason}"
            for reason in Reason
            if reason is not Reason.RETRIED or reason in self.by_reason
        ]
        deleted = "" if self.num_deleted is None else f"; {self.num_deleted} deleted"
        return f"{', '.join(reasons)}; {self.num_done} already done{deleted}"


class Plan:
    """Videos of the input that are not done, at most ``input.limit``: one pass, nothing kept.

    With a limit they come in the input's order, so that every night goes on where the last one
    ended; without, a large prefix comes as it is listed. A changed etag is another video. Iterating
    raises StorageError (no such folder, ...), ManifestError or NoVideosError.
    """

    def __init__(
        self,
        config: RunConfig,
        done: DoneClips,
        written: WrittenUris,
        retried_video_ids: frozenset[str] = frozenset(),
    ) -> None:
        self._config = config
        self._done = done
        self._written = written
        self._retried_video_ids = retried_video_ids
        self._reasons: Counter[Reason] = Counter()
        self._num_bytes = self._num_done = 0
        self._num_deleted: int | None = None

    @classmethod
    def of(
        cls,
        config: RunConfig,
        done: DoneClips,
        storage: Storage,
        layout: Layout,
        retried_video_ids: frozenset[str] = frozenset(),
    ) -> Plan:
        """The plan for a data set that holds ``done``. Raises StorageError."""
        written = WrittenUris(storage, layout, listed_prefix(config.input))
        return cls(config, done, written, retried_video_ids)

    @property
    def counts(self) -> PlanCounts:
        """Of what was iterated so far: all of it after the end."""
        return PlanCounts(dict(self._reasons), self._num_bytes, self._num_done, self._num_deleted)

    def __iter__(self) -> Iterator[PlannedVideo]:
        limit = self._config.input.limit
        num_planned = num_written = 0
        for video in list_videos(self._config.input, self._config.storage, limit is not None):
            has_rows = row_uri_id(video.uri) in self._written.here
            num_written += has_rows
            video_id = video.video_id
            if self._done.has_video(video_id):
                self._num_done += 1
                continue
            done_clip_ids = self._done.clip_ids(video_id)
            reason = self._reason(video, bool(done_clip_ids), has_rows)
            self._reasons[reason] += 1
            self._num_bytes += video.size_bytes
            num_planned += 1
            yield PlannedVideo(video, done_clip_ids, reason)
            if num_planned == limit:
                return
        if listed_prefix(self._config.input) is not None:
            self._num_deleted = len(self._written.here) - num_written

    def _reason(self, video: VideoObject, is_begun: bool, has_rows: bool) -> Reason:
        if video.video_id in self._retried_video_ids:
            return Reason.RETRIED
        if is_begun:
            return Reason.UNFINISHED
        if has_rows:
            return Reason.CHANGED
        is_elsewhere = row_uri_id(video.uri) in self._written.elsewhere
        return Reason.RECONFIGURED if is_elsewhere else Reason.NEW

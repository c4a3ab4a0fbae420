"""Checks across parts: is every clip there once, and is every video's plan complete?"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.dataset.verify_ids import Buckets, Records, same_as_before
from pipeline.dataset.verify_part import NO_VALUE, PartScan
from pipeline.dataset.verify_problems import RowPlaces, RowProblem

_ROWS_AT_ONCE = 1 << 17  # a snapshot's part may have millions; what is sorted is a copy


class Clips:
    """Rows of all parts by their ids: on disk where they are many (see Buckets)."""

    def __init__(self, rows: RowPlaces) -> None:
        self._rows = rows
        self.num_videos = 0
        """Videos that have a row; known once ``video_problems`` has ended."""
        self._clips = Buckets([("row", np.int64)])
        self._videos = Buckets(
            [
                ("row", np.int64),
                ("clip_index", np.int32),
                ("num_clips", np.int32),
                ("clip", np.uint64),
            ]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clips.__exit__(kind, error, traceback)
        self._videos.__exit__(kind, error, traceback)

    def add(self, part: PartScan, first: int) -> None:
        """Take a part in whose first row is ``first`` among all."""
        for start in range(0, part.num_rows, _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            clip_ids = part.clip_ids[some]
            rows = np.arange(first + start, first + start + len(clip_ids))
            self._clips.add(clip_ids, row=rows)
            self._videos.add(
                part.video_ids[some],
                row=rows,
                clip_index=part.clip_index[some],
                num_clips=part.num_clips[some],
                clip=clip_ids[:, 1],
            )

    def clip_problems(self) -> Iterator[RowProblem]:
        """Clips with more than one row: a problem for each row after the first."""
        for clips in self._clips:
            clips = clips[np.lexsort((clips["row"], clips["low"], clips["high"]))]
            for place in np.flatnonzero(same_as_before(clips)):
                before, here = (int(clips["row"][place - back]) for back in (1, 0))
                first, table = self._rows.table(before), self._rows.table(here)
                kind = f"in {first} and {table}" if first is not table else f"twice in {table}"
                yield RowProblem(here, f" is {kind}")

    def video_problems(self) -> Iterator[RowProblem]:
        """Plans that contradict each other, and videos some of whose clips have no row."""
        self.num_videos = 0
        for videos in self._videos:
            videos = videos[np.lexsort((videos["row"], videos["low"], videos["high"]))]
            starts = ~same_as_before(videos)
            self.num_videos += int(starts.sum())
            yield from _plan_problems(videos)
            yield from _index_problems(videos)
            yield from _incomplete(videos, np.flatnonzero(starts))

    def video_ids(self) -> Iterator[Records]:
        """The ids of videos that have a row, bucket by bucket."""
        yield from self._videos


def _plan_problems(videos: Records) -> Iterator[RowProblem]:
    planned = videos[videos["num_clips"] != NO_VALUE]
    counts = planned["num_clips"]
    for place in np.flatnonzero(same_as_before(planned)):
        here, before = counts[place], counts[place - 1]
        if here != before:
            says = f" says {here} clips, another row {before}"
            yield RowProblem(int(planned["row"][place]), says)


def _index_problems(videos: Records) -> Iterator[RowProblem]:
    """Two clips in one place of a plan: none is missing, and yet one is too many."""
    clips = videos[videos["num_clips"] != NO_VALUE]
    keys = (clips["row"], clips["clip_index"], clips["low"], clips["high"])
    clips = clips[np.lexsort(keys)]
    is_taken = same_as_before(clips)
    is_taken[1:] &= clips["clip_index"][1:] == clips["clip_index"][:-1]
    is_taken[1:] &= clips["clip"][1:] != clips["clip"][:-1]  # the same clip twice is told as such
    for place in np.flatnonzero(is_taken):
        says = f" has the index {clips['clip_index'][place]}, which is another clip's"
        yield RowProblem(int(clips["row"][place]), says)


def _incomplete(videos: Records, starts: npt.NDArray[Any]) -> Iterator[RowProblem]:
    """``starts`` are the places of each video's first row."""
    num_rows = len(videos)
    if not num_rows:
        return
    counts, index = videos["num_clips"], videos["clip_index"]
    video = np.zeros(num_rows, np.int64)
    video[starts] = 1
    video = np.cumsum(video) - 1
    has_whole_failure = np.zeros(len(starts), np.bool_)
    has_whole_failure[video[counts == NO_VALUE]] = True
    # the last row that names a plan names the plan that counts
    num_clips = np.zeros(len(starts), np.int64)
    planned = np.flatnonzero(counts != NO_VALUE)
    last = np.zeros(len(starts), np.int64)
    np.maximum.at(last, video[planned], planned)
    num_clips[video[planned]] = counts[last[video[planned]]]
    # each index of the plan counts once
    fitting = planned[(index[planned] >= 0) & (index[planned] < num_clips[video[planned]])]
    order = fitting[np.lexsort((index[fitting], video[fitting]))]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (video[order][1:] != video[order][:-1]) | (index[order][1:] != index[order][:-1])
    found = np.bincount(video[order][is_new], minlength=len(starts))
    missing = num_clips - found
    for place in np.flatnonzero((missing > 0) & ~has_whole_failure):
        before = f"{missing[place]} of {num_clips[place]} clips of "
        yield RowProblem(int(videos["row"][starts[place]]), " have no row", before)

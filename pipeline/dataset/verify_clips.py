"""Checks across parts: is every clip there once, and is every video's plan complete?

A clip has one caption at most; failures before it, and each of an attempt of its own (standing.py
has the rule).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.dataset.layout import Table
from pipeline.dataset.verify_ids import Buckets, Records, same_as_before
from pipeline.dataset.verify_part import NO_VALUE, PartScan
from pipeline.dataset.verify_problems import RowPlaces, RowProblem

_NEVER = 1 << 40  # no attempt is as high

_ROWS_AT_ONCE = 1 << 17  # a snapshot's part may have millions; what is sorted is a copy


class Clips:
    """Rows of all parts by their ids: on disk where they are many (see Buckets)."""

    def __init__(self, rows: RowPlaces) -> None:
        self._rows = rows
        self.num_videos = 0
        """Videos that have a row; known once ``video_problems`` has ended."""
        self.num_superseded = 0
        """Failure rows that do not stand; known once both checks have ended."""
        self._clips = Buckets([("row", np.int64), ("attempt", np.int32)])
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
            self._clips.add(clip_ids, row=rows, attempt=part.attempt[some])
            self._videos.add(
                part.video_ids[some],
                row=rows,
                clip_index=part.clip_index[some],
                num_clips=part.num_clips[some],
                clip=clip_ids[:, 1],
            )

    def clip_problems(self) -> Iterator[RowProblem]:
        """Second captions, failures of an attempt that has a row, and failures after a caption."""
        for clips in self._clips:
            is_failure = clips["row"] >= self._rows.num_captions
            order = np.where(is_failure, clips["attempt"], 0)
            clips = clips[
                np.lexsort((clips["row"], order, is_failure, clips["low"], clips["high"]))
            ]
            is_failure = clips["row"] >= self._rows.num_captions
            is_same = same_as_before(clips)
            clip = np.cumsum(~is_same) - 1
            captioned_at = np.full(len(clips), _NEVER, np.int64)
            captions = np.flatnonzero(~is_failure)
            np.minimum.at(captioned_at, clip[captions], clips["attempt"][captions])
            is_after = is_failure & (clips["attempt"] >= captioned_at[clip])
            is_again = is_same & is_failure
            is_again[1:] &= is_failure[:-1] & (clips["attempt"][1:] == clips["attempt"][:-1])
            for place in np.flatnonzero((is_same & ~is_failure) | is_again | is_after):
                if is_after[place]:
                    says = f" is in {Table.CAPTIONS} and {Table.FAILURES} of no earlier attempt"
                elif is_failure[place]:
                    attempt = clips["attempt"][place]
                    says = f" is twice in {Table.FAILURES} with the attempt {attempt}"
                else:
                    says = f" is twice in {Table.CAPTIONS}"
                yield RowProblem(int(clips["row"][place]), says)
            is_last = np.append(~is_same[1:], True)[: len(clips)]
            is_superseded = is_failure & (~is_last | (captioned_at[clip] < _NEVER))
            self.num_superseded += int(is_superseded.sum())

    def video_problems(self) -> Iterator[RowProblem]:
        """Plans that contradict each other, and videos some of whose clips have no row."""
        self.num_videos = 0
        for videos in self._videos:
            videos = videos[np.lexsort((videos["row"], videos["low"], videos["high"]))]
            starts = ~same_as_before(videos)
            self.num_videos += int(starts.sum())
            yield from _plan_problems(videos)
            yield from _index_problems(videos)
            yield from self._incomplete(videos, np.flatnonzero(starts))

    def _incomplete(self, videos: Records, starts: npt.NDArray[Any]) -> Iterator[RowProblem]:
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
        is_new[1:] = (video[order][1:] != video[order][:-1]) | (
            index[order][1:] != index[order][:-1]
        )
        found = np.bincount(video[order][is_new], minlength=len(starts))
        missing = num_clips - found
        # a whole video's failure does not stand beside all the clips of its plan
        self.num_superseded += int((has_whole_failure & (num_clips > 0) & (missing <= 0)).sum())
        for place in np.flatnonzero((missing > 0) & ~has_whole_failure):
            before = f"{missing[place]} of {num_clips[place]} clips of "
            yield RowProblem(int(videos["row"][starts[place]]), " have no row", before)

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

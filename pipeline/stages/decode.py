"""The decode stage: a planned video in, decoded clips or failures out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo
from pipeline.records import (
    ClipSpec,
    DecodedClip,
    Failure,
    Stage,
    VideoInfo,
    VideoObject,
    frames_digest,
)
from pipeline.stages.attempts import FIRST_ATTEMPT
from pipeline.storage import (
    AccessDeniedError,
    NotFoundError,
    ObjectChangedError,
    Opener,
    StorageError,
    UnsupportedUriError,
)
from pipeline.video.errors import VideoError
from pipeline.video.guard import GuardedDecoder

BAD_VIDEO_ERRORS = (
    VideoError,
    NotFoundError,
    ObjectChangedError,
    AccessDeniedError,
    UnsupportedUriError,
)
"""What is wrong with one video, today and tomorrow. A store that doesn't answer, or credentials
that it doesn't accept, is wrong with all of them: a failure row for each would be for ever."""


class DecodeStage:
    """One killable child process that opens, probes and decodes; called with a video at a time."""

    def __init__(self, config: RunConfig) -> None:
        self._storage = config.storage
        self._decoder = GuardedDecoder(config.video)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._decoder.close()

    def __call__(self, planned: PlannedVideo) -> Iterator[DecodedClip | Failure]:
        """Yield one outcome for each clip that is not done yet, or one for a video without a plan.

        What is wrong with the video or its object is a Failure; other exceptions, also those of a
        store that can't be reached, are raised. The time that planning took (s) is spread evenly
        over the clips that are decoded.
        """
        video = planned.video
        opener = Opener(video.uri, video.etag, self._storage)
        started_s = time.perf_counter()
        try:
            plan = self._decoder.plan(opener)
        except BAD_VIDEO_ERRORS as error:
            yield _failure(video, None, error)
            return
        plan_s = time.perf_counter() - started_s
        specs = [
            ClipSpec(video, index, len(plan.spans), start_s, end_s)
            for index, (start_s, end_s) in enumerate(plan.spans)
        ]
        left = [spec for spec in specs if spec.clip_id not in planned.done_clip_ids]
        for spec in left:
            yield self._decode(opener, plan.info, spec, plan_s / len(left))

    def _decode(
        self, opener: Opener, info: VideoInfo, spec: ClipSpec, plan_share_s: float
    ) -> DecodedClip | Failure:
        started_s = time.perf_counter()
        try:
            decoded = self._decoder.decode(opener, info, (spec.start_s, spec.end_s))
        except BAD_VIDEO_ERRORS as error:
            return _failure(spec.video, spec, error)
        return DecodedClip(
            spec=spec,
            info=info,
            frames=decoded.frames,
            timestamps_s=decoded.timestamps_s,
            frames_digest=frames_digest(decoded.frames, decoded.timestamps_s),
            decode_s=plan_share_s + time.perf_counter() - started_s,
        )


def _failure(
    video: VideoObject, spec: ClipSpec | None, error: VideoError | StorageError
) -> Failure:
    if isinstance(error, VideoError):
        stage, code, message = error.stage, error.code.value, error.message
    else:
        stage, code, message = Stage.READ, error.code, error.reason
    return Failure(video, spec, stage, code, message, FIRST_ATTEMPT)

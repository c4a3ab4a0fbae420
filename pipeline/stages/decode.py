"""The decode stage: a planned video in, decoded clips or failures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

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
from pipeline.stages.attempts import TransientRetries
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

Result = TypeVar("Result")

BAD_VIDEO_ERRORS = (
    VideoError,
    NotFoundError,
    ObjectChangedError,
    AccessDeniedError,
    UnsupportedUriError,
)
"""What is wrong with one video (its kind says for how long). A store that doesn't answer, or
credentials that it doesn't accept, is wrong with all of them and stops the run."""


class DecodeStage:
    """One killable child process that opens, probes and decodes; called with a video at a time.

    Transient failures are tried again here, after a pause and within the budget.
    """

    def __init__(self, config: RunConfig, retries: TransientRetries | None = None) -> None:
        self._storage = config.storage
        self._decoder = GuardedDecoder(config.video)
        self._retries = retries or TransientRetries(config.failures)

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
        store that can't be reached, are raised. The time that planning took (s), pauses between
        attempts included, is spread evenly over the clips that are decoded.
        """
        self._retries.begin_video()
        video = planned.video
        opener = Opener(video.uri, video.etag, self._storage)
        started_s = time.perf_counter()
        plan, attempt = self._tried(video, None, 1, lambda: self._decoder.plan(opener))
        if isinstance(plan, Failure):
            yield plan
            return
        plan_s = time.perf_counter() - started_s
        specs = [
            ClipSpec(video, index, len(plan.spans), start_s, end_s)
            for index, (start_s, end_s) in enumerate(plan.spans)
        ]
        left = [spec for spec in specs if spec.clip_id not in planned.done_clip_ids]
        for spec in left:
            yield self._decode(opener, plan.info, spec, plan_s / len(left), attempt)

    def _decode(
        self, opener: Opener, info: VideoInfo, spec: ClipSpec, plan_share_s: float, attempt: int
    ) -> DecodedClip | Failure:
        started_s = time.perf_counter()
        span = spec.start_s, spec.end_s
        decoded, attempt = self._tried(
            spec.video, spec, attempt, lambda: self._decoder.decode(opener, info, span)
        )
        if isinstance(decoded, Failure):
            return decoded
        return DecodedClip(
            spec=spec,
            info=info,
            frames=decoded.frames,
            timestamps_s=decoded.timestamps_s,
            frames_digest=frames_digest(decoded.frames, decoded.timestamps_s),
            decode_s=plan_share_s + time.perf_counter() - started_s,
            attempt=attempt,
        )

    def _tried(
        self, video: VideoObject, spec: ClipSpec | None, attempt: int, act: Callable[[], Result]
    ) -> tuple[Result | Failure, int]:
        """What an action gives, perhaps after some attempts, and the number of the last one."""
        while True:
            try:
                return act(), attempt
            except BAD_VIDEO_ERRORS as error:
                failure = _failure(video, spec, error, attempt)
            if not self._retries.allow(failure):
                return failure, attempt
            attempt += 1


def _failure(
    video: VideoObject, spec: ClipSpec | None, error: VideoError | StorageError, attempt: int
) -> Failure:
    if isinstance(error, VideoError):
        stage, code, message = error.stage, error.code.value, error.message
    else:
        stage, code, message = Stage.READ, error.code, error.reason
    return Failure(video, spec, stage, code, message, attempt)

"""Answers a question: its video is loaded, then the engine is asked, both within one deadline."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Protocol

from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.records import DecodedClip
from pipeline.serving.conversation import Question
from pipeline.serving.generation import (
    DeadlineError,
    EngineGoneError,
    Events,
    GenerationRequest,
    GenerationService,
    QueueFullError,
)
from pipeline.serving.protocol_errors import api_error_of
from pipeline.serving.video_errors import VideoFetchError, VideoRefusedError
from pipeline.serving.video_loader import VideoRequest
from pipeline.video.errors import VideoError

LOADING_RETRY_S = 2.0
"""For a client whose video was not even loaded, as the queue is full: s."""


class Loader(Protocol):
    """Brings the frames of a video."""

    async def load(self, request: VideoRequest) -> DecodedClip:
        """Raises VideoRefusedError, VideoFetchError and VideoError; cancelling it stops it."""


class Responder:
    """Answers questions, many at a time."""

    def __init__(
        self,
        service: GenerationService,
        loader: Loader,
        metrics: EndpointMetrics,
        max_waiting: int,
        timeout_s: float,
    ) -> None:
        self._service = service
        self._loader = loader
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._num_loading = 0

    async def answer(self, question: Question, request_id: str) -> Events:
        """What the engine says; closing it cancels all that was begun.

        Raises ANSWERED_ERRORS of pipeline.serving.protocol_errors.
        """
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        clip = None
        if question.video is not None:
            try:
                clip = await self._load(question.video, deadline_s)
            except (
                *(VideoRefusedError, VideoFetchError, VideoError),
                *(QueueFullError, DeadlineError, EngineGoneError),
            ) as error:
                self._metrics.refused(api_error_of(error).code)
                raise
        request = GenerationRequest(
            request_id=request_id,
            turns=question.turns,
            clip=clip,
            options=question.options,
            timeout_s=max(0.0, deadline_s - asyncio.get_running_loop().time()),
        )
        async with aclosing(self._service.generate(request)) as events:
            async for event in events:
                yield event

    async def _load(self, video: VideoRequest, deadline_s: float) -> DecodedClip:
        """Raises what the loader does, and QueueFullError for a video that would wait in vain."""
        status = self._service.status()
        if not status.is_alive:
            raise EngineGoneError("the engine has ended")
        num_asked = status.num_running + status.num_waiting + self._num_loading
        if num_asked >= status.num_slots + self._max_waiting:
            raise QueueFullError(self._max_waiting, LOADING_RETRY_S)
        self._num_loading += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._loader.load(video)
        except TimeoutError as error:
            raise DeadlineError("the video took all the time") from error
        finally:
            self._num_loading -= 1

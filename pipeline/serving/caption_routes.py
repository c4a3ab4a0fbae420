"""POST /v1/captions: many clips, an outcome for each."""

from __future__ import annotations

import asyncio
import time
import uuid

from fastapi import APIRouter, Request

from pipeline.serving.access_log import STATE
from pipeline.serving.answering import Answering, WholeAnswer, whole_answer
from pipeline.serving.client_gone import while_connected
from pipeline.serving.conversation import Question
from pipeline.serving.generation import QueueFullError
from pipeline.serving.protocol_captions import (
    Captioned,
    CaptionsRequest,
    CaptionsResponse,
    NotCaptioned,
)
from pipeline.serving.protocol_errors import ANSWERED_ERRORS, ApiError, api_error_of
from pipeline.serving.protocol_response import SpeculationStats, Usage

_BAD_REQUEST = 400


def captions_router(
    answering: Answering, max_clips: int, num_at_once: int, timeout_s: float
) -> APIRouter:
    """The route; ``num_at_once`` clips of a request are on their way, so that others have room."""
    router = APIRouter()

    @router.post("/v1/captions")
    async def caption(asked: CaptionsRequest, request: Request) -> CaptionsResponse:
        """Caption clips; one that fails is an outcome, and costs the others nothing."""
        if len(asked.clips) > max_clips:
            message = f"clips: {len(asked.clips)} clips, and at most {max_clips} are taken"
            raise ApiError(_BAD_REQUEST, "too_many_clips", message, param="clips")
        batch = _Batch(answering, asked, num_at_once, timeout_s)
        created, model = int(time.time()), answering.names.answering(asked.model)
        outcomes = await while_connected(request, batch.outcomes())
        num_failed = sum(isinstance(outcome, NotCaptioned) for outcome in outcomes)
        getattr(request.state, STATE).update(num_clips=len(outcomes), num_failed=num_failed)
        return CaptionsResponse(
            id=batch.id, created=created, model=model, data=outcomes, num_failed=num_failed
        )

    return router


class _Batch:
    """The clips of one request."""

    def __init__(
        self, answering: Answering, asked: CaptionsRequest, num_at_once: int, timeout_s: float
    ) -> None:
        self.id = f"captions-{uuid.uuid4().hex}"
        self._answering = answering
        self._asked = asked
        self._timeout_s = timeout_s
        self._turn = asyncio.Semaphore(num_at_once)

    async def outcomes(self) -> list[Captioned | NotCaptioned]:
        """One for each clip, in their order."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._outcome(index)) for index in range(len(self._asked.clips))
            ]
        return [task.result() for task in tasks]

    async def _outcome(self, index: int) -> Captioned | NotCaptioned:
        try:
            clip = self._asked.clips[index]
            question = self._answering.defaults.caption_question(self._asked, clip)
            async with self._turn:
                answer = await self._answer(question, f"{self.id}-{index}")
        except (ApiError, *ANSWERED_ERRORS) as error:
            return NotCaptioned(index=index, error=api_error_of(error).body)
        end = answer.end
        tokens = answer.tokens() if self._asked.lvspec.return_tokens else None
        return Captioned(
            index=index,
            caption=end.text,
            finish_reason=end.finish_reason.value,
            usage=Usage.of(end),
            speculation=SpeculationStats.of(end, tokens),
        )

    async def _answer(self, question: Question, request_id: str) -> WholeAnswer:
        """Asks again while the queue is full, until the clip's time is up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        while True:
            try:
                return await whole_answer(self._answering.responder.answer(question, request_id))
            except QueueFullError as error:
                if loop.time() + error.retry_after_s > deadline_s:
                    raise
                await asyncio.sleep(error.retry_after_s)

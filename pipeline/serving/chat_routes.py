"""POST /v1/chat/completions: an answer as a whole, or as it is decoded."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from pipeline.serving.access_log import STATE
from pipeline.serving.answering import Answering, WholeAnswer, whole_answer
from pipeline.serving.client_gone import while_connected
from pipeline.serving.generation import Committed, Events, Finished
from pipeline.serving.protocol import ChatCompletionRequest
from pipeline.serving.protocol_errors import ANSWERED_ERRORS, ErrorResponse, api_error_of
from pipeline.serving.protocol_response import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    Delta,
    SpeculationStats,
    TokenDetail,
    Usage,
    tokens_of,
)
from pipeline.serving.sse import DONE, EventStream, event

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An answer; with `stream`, chat.completion.chunk objects as events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def chat_router(answering: Answering) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def complete(asked: ChatCompletionRequest, request: Request) -> ChatCompletion | Response:
        """Answer a conversation about at most one video."""
        heading = _Heading(
            f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), answering.names.answering(asked.model)
        )
        question = answering.defaults.chat_question(asked)
        events = answering.responder.answer(question, heading.id)
        facts: dict[str, Any] = getattr(request.state, STATE)
        if asked.stream:
            # The first event decides the status; afterwards an error is an event.
            first = await while_connected(request, _first(events))
            return EventStream(_chunks(asked, heading, first, events, facts))
        answer = await while_connected(request, whole_answer(events))
        facts["output_tokens"] = answer.end.stats.output_tokens
        return _completion(asked, heading, answer)

    return router


@dataclass(frozen=True, slots=True)
class _Heading:
    """What is in every object of one answer."""

    id: str
    created: int
    model: str

    def chunk(self, delta: Delta, finish_reason: str | None = None) -> ChatCompletionChunk:
        choice = ChunkChoice.model_validate(
            {"index": 0, "delta": delta, "finish_reason": finish_reason}
        )
        return self._chunk([choice])

    def last_chunk(self, end: Finished) -> ChatCompletionChunk:
        """That of the counts, which has no choice."""
        counts = {"usage": Usage.of(end), "speculation": SpeculationStats.of(end)}
        return self._chunk([]).model_copy(update=counts)

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
        )


def _completion(
    asked: ChatCompletionRequest, heading: _Heading, answer: WholeAnswer
) -> ChatCompletion:
    end = answer.end
    choice = Choice(message=AnswerMessage(content=end.text), finish_reason=end.finish_reason.value)
    tokens = answer.tokens() if asked.lvspec.return_tokens else None
    return ChatCompletion(
        id=heading.id,
        created=heading.created,
        model=heading.model,
        choices=[choice],
        usage=Usage.of(end),
        speculation=SpeculationStats.of(end, tokens),
    )


async def _first(events: Events) -> Committed | Finished | None:
    return await anext(events, None)


async def _chunks(
    asked: ChatCompletionRequest,
    heading: _Heading,
    first: Committed | Finished | None,
    events: Events,
    facts: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    """The events of a streamed answer, from its first one that was already waited for.

    ``facts`` are for the access log, whose line is written when the stream ends.
    """
    with_tokens = asked.lvspec.return_tokens
    with_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    async with aclosing(events):
        yield event(heading.chunk(Delta(role="assistant", content="")))
        try:
            happened = first
            while happened is not None:
                match happened:
                    case Committed():
                        chunk = heading.chunk(Delta(content=happened.text))
                        if with_tokens:
                            detail = TokenDetail(tokens=tokens_of(happened))
                            chunk = chunk.model_copy(update={"speculation": detail})
                        if happened.text or with_tokens:
                            yield event(chunk)
                    case Finished():
                        facts["output_tokens"] = happened.stats.output_tokens
                        chunk = heading.chunk(Delta(), happened.finish_reason.value)
                        if with_usage:
                            yield event(chunk)
                            yield event(heading.last_chunk(happened))
                        else:
                            stats = SpeculationStats.of(happened)
                            yield event(chunk.model_copy(update={"speculation": stats}))
                happened = await anext(events, None)
        except ANSWERED_ERRORS as error:
            body = api_error_of(error).body
            facts["code"] = body.code
            yield event(ErrorResponse(error=body))
            return
    yield DONE

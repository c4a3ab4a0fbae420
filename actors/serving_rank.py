"""One rank of an endpoint's gang as a Ray actor.

It is an async actor: what lasts as long as the endpoint blocks the loop of the default concurrency
group, and nothing else is asked there; questions share one event loop, that of their own group.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.rank import StartedRank
from pipeline.config import EndpointConfig
from pipeline.serving.generation import (
    Committed,
    EngineGoneError,
    Events,
    Finished,
    GenerationRequest,
    QueueFullError,
    ServiceStatus,
)

if TYPE_CHECKING:
    from pipeline.gang.link import LeaderLink
    from pipeline.gang.member import AnsweringRank
    from pipeline.gang.model import RankModel
    from pipeline.serving.caption_service import CaptionService

_LOOK_S = 0.1
"""The engine's thread is looked after so often, s."""
_MAX_EARLY = 256
"""Answers that were cancelled before they were begun are remembered, this many."""


@dataclass(frozen=True, slots=True)
class QueueIsFull:
    """A QueueFullError on its way."""

    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer, and how the engine was then."""

    finished: Finished
    status: ServiceStatus


RankEvent = Committed | Ended | QueueIsFull
"""What rank 0 tells of an answer."""


class ServingRank(StartedRank[EndpointConfig, "AnsweringRank"]):
    """A rank of an endpoint's replica: serve on rank 0 and follow on the others, until ``stop``."""

    def __init__(self, config: EndpointConfig, rank: int) -> None:
        super().__init__(config, rank)
        self._service: CaptionService | None = None
        self._stopping = threading.Event()
        self._leaving: dict[str, asyncio.Event] = {}
        self._left_early: deque[str] = deque(maxlen=_MAX_EARLY)

    def open_service(self) -> None:
        """Rank 0: start the engine. Raises PairError, ValueError as CaptionService does."""
        from pipeline.serving.caption_service import CaptionService  # transformers

        assert self._leading is not None  # ``start`` comes first
        self._service = CaptionService(self._config, self._leading.target, self._leading.draft)

    def serve(self) -> None:
        """Rank 0: until ``stop``; then the others return, too. Raises EngineGoneError if the
        engine dies before, LinkError if a rank is gone."""
        assert self._leading is not None  # ``start`` comes first
        service = self._opened()
        while not self._stopping.wait(_LOOK_S):
            if not service.status().is_alive:
                break
        is_dead = not self._stopping.is_set()
        service.close()
        self._leading.end_call()
        if is_dead:
            raise EngineGoneError("the engine of rank 0 has died; its log says what of")

    def follow_live(self) -> None:
        """The others: do as rank 0 does, until it has ended."""
        assert self._following is not None  # ``start`` comes first
        self._following.follow(())

    def stop(self) -> None:
        """Rank 0: end ``serve``; those who wait get EngineGoneError."""
        self._stopping.set()

    def _lead(self, part: RankModel, link: LeaderLink) -> AnsweringRank:
        from pipeline.gang.member import AnsweringRank  # torch

        return AnsweringRank(self._config, part, link)

    async def warm_up(self) -> None:
        """Rank 0: use the engine once."""
        await self._opened().warm_up()

    async def generate(self, key: str, request: GenerationRequest) -> AsyncIterator[RankEvent]:
        """Rank 0: answer; ``key`` is for ``cancel``. Raises as GenerationService does, but for
        QueueFullError."""
        service = self._opened()
        leaving = self._leaving[key] = asyncio.Event()
        if key in self._left_early:
            leaving.set()
        try:
            # The service's iterators can be closed, as its contract says; their type does not.
            async with aclosing(service.generate(request)) as events:
                while (event := await _next(events, leaving)) is not None:
                    if isinstance(event, Finished):
                        yield Ended(event, service.status())
                    else:
                        yield event
        except QueueFullError as error:
            yield QueueIsFull(error.retry_after_s)
        finally:
            del self._leaving[key]

    async def cancel(self, key: str) -> None:
        """Rank 0: free the slot of an answer that nobody waits for. Calls may overtake each other:
        an answer that is not begun yet will not be."""
        leaving = self._leaving.get(key)
        if leaving is None:
            self._left_early.append(key)
        else:
            leaving.set()

    def _opened(self) -> CaptionService:
        assert self._service is not None  # ``open_service`` comes first
        return self._service


async def _next(events: Events, leaving: asyncio.Event) -> Committed | Finished | None:
    """What comes next; None at the end, and when nobody waits any more."""
    coming = asyncio.ensure_future(anext(events, None))
    left = asyncio.ensure_future(leaving.wait())
    try:
        await asyncio.wait((coming, left), return_when=asyncio.FIRST_COMPLETED)
        return None if left.done() else coming.result()
    finally:
        coming.cancel()
        left.cancel()
        await asyncio.gather(coming, left, return_exceptions=True)

"""The endpoint's engine where the target is held by a gang of ranks."""

from __future__ import annotations

import asyncio
import logging
from threading import Thread
from uuid import uuid4

from ray import ObjectRefGenerator
from ray.exceptions import RayError, RayTaskError

from actors.errors import GangError
from actors.gang import ENDING_S
from actors.serving_gang import ServingGang
from actors.serving_rank import Ended, QueueIsFull, RankEvent
from pipeline.config import EndpointConfig
from pipeline.serving.generation import (
    Committed,
    EngineGoneError,
    Events,
    GenerationRequest,
    QueueFullError,
    ServiceStatus,
)

_LOG = logging.getLogger(__name__)
_LOST = "the gang of ranks is gone"


class GangService:
    """Answers requests with one gang; implements GenerationService.

    A rank that is lost ends it: those that wait get EngineGoneError, the ranks and their places are
    given up, and ``status`` says so, for whoever starts it anew. ``close`` it.
    """

    def __init__(self, config: EndpointConfig) -> None:
        """Loads the models. Raises WorkerError, GangError, ModelLoadError and PairError."""
        self._config = config
        self._num_slots = config.generation.max_num_seqs
        self._is_alive = True
        self._newest: ServiceStatus | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._gang = ServingGang(config)
        self._watcher = Thread(target=self._watch, name="gang", daemon=True)
        self._watcher.start()

    @property
    def model_id(self) -> str:
        """Of the target."""
        return self._config.models.target.name

    @property
    def draft_model_id(self) -> str | None:
        """Of the draft model, if one proposes tokens."""
        draft = self._config.effective_draft
        return None if draft is None else draft.name

    async def warm_up(self) -> None:
        """Use the engine once. Raises EngineGoneError."""
        try:
            await self._gang.warm_up()
        except RayError as error:
            raise _own(error) from error

    async def generate(self, request: GenerationRequest) -> Events:
        """Answer a request; see GenerationService."""
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(lost)
        key, is_over = uuid4().hex, False
        try:
            if not self._is_alive:  # asked after joining those whom the watcher tells
                raise EngineGoneError(_LOST)
            # In a thread, as a clip's frames are copied on their way.
            stream = await asyncio.to_thread(self._gang.generate, key, request)
            while True:
                event = await _next(stream, lost)
                match event:
                    case Committed():
                        yield event
                    case QueueIsFull(retry_after_s):
                        is_over = True
                        raise QueueFullError(self._config.serving.max_waiting, retry_after_s)
                    case Ended(finished, status):
                        is_over = True
                        self._newest = status
                        yield finished
                        return
        except EngineGoneError:
            self._is_alive = False  # the watcher will see it, too, and not at once
            raise
        finally:
            self._waiting.discard(lost)
            if not is_over and self._is_alive:
                self._gang.cancel(key)

    def status(self) -> ServiceStatus:
        """Now; of the prefix cache, when the newest answer ended."""
        num_asked, newest = len(self._waiting), self._newest
        num_running = min(num_asked, self._num_slots)
        return ServiceStatus(
            is_alive=self._is_alive,
            num_running=num_running,
            num_waiting=num_asked - num_running,
            num_slots=self._num_slots,
            num_prefix_queries=newest.num_prefix_queries if newest else 0,
            num_prefix_hits=newest.num_prefix_hits if newest else 0,
        )

    def close(self) -> None:
        """End the engine after the rows' next round, and all ranks; gives their places back."""
        self._gang.stop()
        self._watcher.join(ENDING_S)
        self._gang.close()  # ranks that did not end: their watcher sees it
        self._watcher.join()

    def _watch(self) -> None:
        """The watcher's thread: a gang is given up at once, as its GPUs are needed for the next."""
        try:
            self._gang.serve()
        except (GangError, EngineGoneError) as error:
            _LOG.error("%s", error)
        finally:
            self._is_alive = False
            for lost in list(self._waiting):
                _tell(lost)
            self._gang.close()


async def _next(stream: ObjectRefGenerator[RankEvent], lost: asyncio.Future[None]) -> RankEvent:
    """What rank 0 says next. Raises what it raises, EngineGoneError if that can't be heard."""
    coming = asyncio.ensure_future(_heard(stream))
    try:
        await asyncio.wait((coming, lost), return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            raise EngineGoneError(_LOST)
        return coming.result()
    finally:
        coming.cancel()


async def _heard(stream: ObjectRefGenerator[RankEvent]) -> RankEvent:
    try:
        event: RankEvent = await (await anext(stream))
    except RayError as error:
        raise _own(error) from error
    except StopAsyncIteration as error:  # an answer without an end: it was cancelled by nobody here
        raise EngineGoneError(_LOST) from error
    return event


def _own(error: RayError) -> Exception:
    """What rank 0 raised; an error of Ray's own is the loss of rank 0."""
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    return EngineGoneError(_LOST)


def _tell(lost: asyncio.Future[None]) -> None:
    try:
        lost.get_loop().call_soon_threadsafe(lost.set_result, None)
    except RuntimeError:  # the loop is closed: nobody can be waiting
        return

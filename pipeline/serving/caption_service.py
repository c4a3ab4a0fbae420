"""The endpoint's engine in this process: one thread decodes, the event loop asks and listens."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Self

from pipeline.config import EndpointConfig
from pipeline.config_errors import ConfigError
from pipeline.decoding.request import CaptionRequest
from pipeline.models.base import VideoLM, turns_of
from pipeline.models.loading import load_pair
from pipeline.models.pair_calibration import check_calibration
from pipeline.serving.answer import Answer
from pipeline.serving.generation import (
    DeadlineError,
    EngineGoneError,
    Events,
    Finished,
    GenerationOptions,
    GenerationRequest,
    QueueFullError,
    ServiceStatus,
)
from pipeline.serving.inbox import Inbox
from pipeline.serving.live_engine import LiveEngine
from pipeline.video.blank_clip import blank_clip

_LOG = logging.getLogger(__name__)
_WARM_UP_TOKENS = 8
_FIRST_GUESS_S = 5.0
"""How long an answer takes before any has been timed, s."""
_NEWEST_WEIGHT = 0.2
"""Of the newest answer in the running mean of their seconds."""


class CaptionService:
    """Answers requests with one target; implements GenerationService.

    The models' errors end it: those that wait get EngineGoneError, and ``status`` says so, for
    whoever starts it anew. ``close`` it.
    """

    def __init__(self, config: EndpointConfig, target: VideoLM, draft: VideoLM | None) -> None:
        """Raises PairError if the calibration is of another pair, ValueError as LiveEngine does."""
        check_calibration(config.speculation, target, draft)
        self._config = config
        self._target = target
        self._draft = draft
        self._engine = LiveEngine(
            target,
            draft,
            config.generation,
            config.speculation,
            config.serving.prefix_cache_memory_bytes,
        )
        self._inbox: Inbox[Answer] = Inbox()
        self._answers: set[Answer] = set()
        self._num_preparing = 0
        self._seconds = _FIRST_GUESS_S
        self._death: BaseException | None = None
        # One: tokenizers are not made for several threads.
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, config: EndpointConfig) -> Self:
        """Load the models. Raises ModelLoadError, PairError, and ConfigError for several ranks."""
        size = config.models.tensor_parallel_size
        if size > 1:
            raise ConfigError(
                f"models.tensor_parallel_size is {size}, and this is one process: use --runner ray "
                "(a replica is then a gang of ranks), or set --tensor-parallel-size 1"
            )
        models = config.models.model_copy(update={"draft": config.effective_draft})
        return cls(config, *load_pair(models, config.storage))

    @property
    def model_id(self) -> str:
        """Of the target."""
        return self._target.model_id

    @property
    def draft_model_id(self) -> str | None:
        """Of the draft model, if one proposes tokens."""
        return self._draft.model_id if self._draft is not None else None

    async def warm_up(self) -> None:
        """Caption a black clip of the usual size, so that the first request finds open sessions."""
        request = GenerationRequest(
            request_id="warm-up",
            turns=turns_of(self._config.prompt),
            clip=blank_clip(self._config.video),
            options=GenerationOptions(min(_WARM_UP_TOKENS, self._config.generation.max_tokens)),
            timeout_s=self._config.serving.request_timeout_s,
        )
        async for _ in self.generate(request):
            pass

    async def generate(self, request: GenerationRequest) -> Events:
        """Answer a request; see GenerationService."""
        started_s = time.monotonic()
        deadline_s = started_s + request.timeout_s
        answer = await self._hand_over(request, deadline_s)
        try:
            while True:
                left_s = deadline_s - time.monotonic()
                try:
                    event = await asyncio.wait_for(answer.events.get(), left_s)
                except TimeoutError as error:
                    raise DeadlineError(f"no answer within {request.timeout_s:g} s") from error
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finished):
                    took_s = time.monotonic() - started_s
                    self._seconds += _NEWEST_WEIGHT * (took_s - self._seconds)
                    return
        finally:
            answer.cancel()
            self._answers.discard(answer)

    def status(self) -> ServiceStatus:
        """Now."""
        prefixes = self._engine.prefixes
        num_waiting = len(self._inbox)
        return ServiceStatus(
            is_alive=self._thread.is_alive(),
            num_running=max(0, len(self._answers) - num_waiting),
            num_waiting=num_waiting + self._num_preparing,
            num_slots=self._num_slots,
            num_prefix_queries=prefixes.num_queries if prefixes else 0,
            num_prefix_hits=prefixes.num_hits if prefixes else 0,
        )

    def close(self) -> None:
        """End the engine after the rows' next round; those that wait get EngineGoneError."""
        self._end_with(EngineGoneError("the endpoint is shutting down"))
        self._thread.join()
        self._preparer.shutdown()

    @property
    def _num_slots(self) -> int:
        return self._config.generation.max_num_seqs

    async def _hand_over(self, request: GenerationRequest, deadline_s: float) -> Answer:
        """Prepare the prompt and put it in the inbox. Raises as ``generate`` does."""
        num_asked = len(self._answers) + self._num_preparing
        max_waiting = self._config.serving.max_waiting
        if num_asked >= self._num_slots + max_waiting:
            rounds = (num_asked - self._num_slots) / self._num_slots + 1
            raise QueueFullError(max_waiting, max(1.0, self._seconds * rounds))
        self._num_preparing += 1
        try:
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._preparer, self._prepare, request)
        finally:
            self._num_preparing -= 1
        if (refusal := self._engine.refusal(prepared)) is not None:
            raise refusal
        answer = Answer(prepared, request.options, self._target.decode_text, deadline_s)
        self._answers.add(answer)
        if not self._inbox.put(answer):
            self._answers.discard(answer)
            raise EngineGoneError("the engine has ended") from self._death
        return answer

    def _prepare(self, request: GenerationRequest) -> CaptionRequest:
        clip, turns = request.clip, request.turns
        return CaptionRequest(
            _content_id(request),
            self._target.converse(clip, turns),
            self._draft.converse(clip, turns) if self._draft is not None else None,
        )

    def _run(self) -> None:
        """The engine's thread."""
        try:
            self._engine.run(self._inbox)
        except BaseException as error:
            # Whatever it is, nothing is left to answer with: say so, and let the thread die of it.
            self._death = error
            _LOG.exception("the engine has died")
            self._end_with(EngineGoneError("the engine has died"))
            raise

    def _end_with(self, error: EngineGoneError) -> None:
        """Close the inbox and tell everyone who waits."""
        self._inbox.close()
        for answer in list(self._answers):
            answer.failed(error)
            answer.cancel()


def _content_id(request: GenerationRequest) -> str:
    """What a sampled answer hangs on beside its seed: what was asked, not when or by whom."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update((request.clip.frames_digest if request.clip else "").encode())
    for turn in request.turns:
        digest.update(repr((turn.role, turn.text, turn.has_video)).encode())
    return digest.hexdigest()

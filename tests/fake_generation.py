"""A GenerationService without models: what it says of a request is a function of the request alone.

It keeps the real one's promises: slots, a bounded queue, deadlines, a slot that is free as soon as
its iterator is closed, and an engine that may end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.records import DecodedClip, DecodingStats, FinishReason, TokenDecision
from pipeline.serving.generation import (
    Committed,
    DeadlineError,
    EngineGoneError,
    Events,
    Finished,
    GenerationRequest,
    QueueFullError,
    ServiceStatus,
)
from pipeline.serving.video_loader import VideoRequest
from tests.make_records import decoded_clip

KINDS = ("correction", "exact", "relaxed", "shifted", "bonus")
RETRY_AFTER_S = 3.0
RELAXED_SHARE = 0.5
_POLL_S = 0.005


def expected_words(request: GenerationRequest) -> list[str]:
    """What the fake answers when nothing cuts it off."""
    seen = "nothing" if request.clip is None else f"{len(request.clip.frames)} frames"
    turns = " / ".join(f"{turn.role}: {turn.text}" for turn in request.turns)
    text = f"I saw {seen} and was asked {turns}. Zwölf Boxkämpfer 🎬 jagten ihn über den Deich."
    words = text.split(" ")
    return [word if place == 0 else f" {word}" for place, word in enumerate(words)]


@dataclass
class FakeGeneration:
    """``failures``: by the text of the last turn, what is raised after how many rounds.

    ``open_gate`` cleared holds rounds back, from the round ``gate_round`` on; ``die`` ends the
    engine.
    """

    num_slots: int = 2
    max_waiting: int = 2
    failures: Mapping[str, tuple[int, Exception]] = field(default_factory=dict)
    model_id: str = "org/target"
    draft_model_id: str | None = "/srv/models/draft"
    requests: list[GenerationRequest] = field(default_factory=list)
    gate_round: int = 0
    num_cancelled: int = 0
    num_finished: int = 0
    open_gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open_gate.set()
        self._num_running = 0
        self._num_waiting = 0
        self._is_alive = True

    def die(self) -> None:
        """The engine ends, and with it all that it has."""
        self._is_alive = False

    def status(self) -> ServiceStatus:
        return ServiceStatus(self._is_alive, self._num_running, self._num_waiting, self.num_slots)

    async def generate(self, request: GenerationRequest) -> Events:
        self._check_alive()
        if self._num_waiting >= self.max_waiting and self._num_running >= self.num_slots:
            raise QueueFullError(self.max_waiting, RETRY_AFTER_S)
        self.requests.append(request)
        deadline_s = asyncio.get_running_loop().time() + request.timeout_s
        has_ended = False
        try:
            await self._take_slot(deadline_s)
            try:
                async for event in self._rounds(request, deadline_s):
                    has_ended = isinstance(event, Finished)
                    yield event
            finally:
                self._num_running -= 1
        except (asyncio.CancelledError, GeneratorExit):
            self.num_cancelled += not has_ended
            raise

    async def _take_slot(self, deadline_s: float) -> None:
        self._num_waiting += 1
        try:
            while self._num_running >= self.num_slots:
                await self._pause(deadline_s)
            self._num_running += 1
        finally:
            self._num_waiting -= 1

    async def _rounds(self, request: GenerationRequest, deadline_s: float) -> Events:
        words = expected_words(request)
        options = request.options
        reason = FinishReason.LENGTH if len(words) > options.max_tokens else FinishReason.STOP
        words = words[: options.max_tokens]
        text = "".join(words)
        for stop in options.stop:
            if stop in text:
                text, reason = text[: text.index(stop)], FinishReason.STOP
        num_rounds, failure = self.failures.get(request.turns[-1].text, (-1, None))
        sent = 0
        for number, start in enumerate(range(0, len(words), 3)):
            if number == num_rounds and failure is not None:
                raise failure
            while number >= self.gate_round and not self.open_gate.is_set():
                await self._pause(deadline_s)
            self._check_alive()
            block = words[start : start + 3]
            piece = text[sent : sent + len("".join(block))]
            sent += len(piece)
            tokens = tuple(_token(start + i, word) for i, word in enumerate(block))
            yield Committed(piece, tokens, None if options.exact else RELAXED_SHARE)
            await asyncio.sleep(0)
        self.num_finished += 1
        yield Finished(text, reason, _stats(len(words)), 5, queue_s=0.1, first_token_s=0.2)

    async def _pause(self, deadline_s: float) -> None:
        self._check_alive()
        if asyncio.get_running_loop().time() > deadline_s:
            raise DeadlineError("too late")
        await asyncio.sleep(_POLL_S)

    def _check_alive(self) -> None:
        if not self._is_alive:
            raise EngineGoneError("the engine has ended")


def _token(place: int, text: str) -> TokenDecision:
    kind = KINDS[place % len(KINDS)]
    is_drafted = kind in ("exact", "relaxed", "shifted")
    rank = (place % 10) / 10 if is_drafted else None
    return TokenDecision(place, kind, place, rank, rank, text)


def _stats(num_tokens: int) -> DecodingStats:
    return DecodingStats(
        prompt_tokens=20,
        visual_tokens=12,
        output_tokens=num_tokens,
        target_steps=4,
        drafted_tokens=8,
        accepted_tokens=6,
        relaxed_tokens=2,
        shifted_tokens=1,
        anchor_tokens=1,
        correction_tokens=2,
        bonus_tokens=1,
        rejected_by_cause={"mismatch": 2},
        accepted_histogram=(1, 0, 3),
        prefill_s=0.1,
        draft_s=0.02,
        verify_s=0.2,
        decode_s=0.25,
    )


@dataclass
class FakeLoader:
    """Loads a clip of as many frames as asked for; ``failures`` by URL."""

    failures: Mapping[str, Exception] = field(default_factory=dict)
    requests: list[VideoRequest] = field(default_factory=list)
    num_cancelled: int = 0
    open_gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open_gate.set()

    async def load(self, request: VideoRequest) -> DecodedClip:
        self.requests.append(request)
        try:
            while not self.open_gate.is_set():
                await asyncio.sleep(_POLL_S)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if request.url in self.failures:
            raise self.failures[request.url]
        return decoded_clip(num_frames=request.num_frames or 4)

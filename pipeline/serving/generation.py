"""What an endpoint asks of the engine, and what it gets back as tokens are committed.

One request is a conversation about at most one clip. Its answer is a stream: a ``Committed`` for
each round that committed tokens, then one ``Finished``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from pipeline.models.base import Turn
from pipeline.records import DecodedClip, DecodingStats, FinishReason, TokenDecision


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How one answer is decoded. ``exact`` asks for the target's own text, whatever the recipe."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """A conversation to answer. ``clip`` belongs to the turn that has a video.

    ``timeout_s`` counts from the moment that the request is handed over, waiting included.
    """

    request_id: str
    turns: tuple[Turn, ...]
    clip: DecodedClip | None
    options: GenerationOptions
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens that one round committed, and the text that they add.

    Texts add up to the answer's: bytes of an unfinished character, and what may be the beginning of
    a stop string, are held back. ``tokens`` say why each is there; those whose anchor_rank is above
    ``relaxed_share``, the lambda in force, are anchors (None: all are held to the target's own).
    """

    text: str
    tokens: tuple[TokenDecision, ...]
    relaxed_share: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer.

    ``num_cached_tokens`` of the prompt were read from the prefix cache. ``queue_s`` is the time
    from hand-over to the slot, ``first_token_s`` from hand-over to the first token.
    """

    text: str
    finish_reason: FinishReason
    stats: DecodingStats
    num_cached_tokens: int
    queue_s: float
    first_token_s: float


Events = AsyncGenerator[Committed | Finished, None]
"""An answer as it is made; closing it cancels the request."""


class QueueFullError(RuntimeError):
    """Too many requests wait; try again in ``retry_after_s``."""

    def __init__(self, max_waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{max_waiting} requests wait already; try again later")
        self.retry_after_s = retry_after_s


class DeadlineError(RuntimeError):
    """The request's time was up before its answer was."""


class EngineGoneError(RuntimeError):
    """The engine has ended, and with it the requests that it had."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A moment's counts, for health checks and metrics."""

    is_alive: bool
    num_running: int
    num_waiting: int
    num_slots: int
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0


class GenerationService(Protocol):
    """Answers requests, many at a time."""

    @property
    def model_id(self) -> str:
        """Of the target."""

    @property
    def draft_model_id(self) -> str | None:
        """Of the draft model, if one proposes tokens."""

    def generate(self, request: GenerationRequest) -> Events:
        """Answer a request; closing the iterator cancels it and frees its slot.

        Iterating raises QueueFullError, DeadlineError, EngineGoneError, PromptTooLongError (of
        pipeline.decoding.kv_budget) and ClipInputError (of pipeline.models.base).
        """

    def status(self) -> ServiceStatus:
        """Now."""

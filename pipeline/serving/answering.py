"""What all routes that answer share."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from pipeline.serving.conversation import Defaults
from pipeline.serving.generation import Committed, EngineGoneError, Events, Finished
from pipeline.serving.model_names import ModelNames
from pipeline.serving.protocol_response import Token, tokens_of
from pipeline.serving.responder import Responder


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers, by which name, and what is meant where a request says nothing."""

    responder: Responder
    defaults: Defaults
    names: ModelNames


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that has come to its end."""

    end: Finished
    rounds: tuple[Committed, ...]

    def tokens(self) -> list[Token]:
        """All tokens, and why each is there."""
        return [token for round_ in self.rounds for token in tokens_of(round_)]


async def whole_answer(events: Events) -> WholeAnswer:
    """Wait for the end. Raises what the events do."""
    rounds: list[Committed] = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Committed():
                    rounds.append(event)
                case Finished():
                    return WholeAnswer(event, tuple(rounds))
    raise EngineGoneError("an answer without an end")

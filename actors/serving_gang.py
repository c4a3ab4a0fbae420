"""The gang of an endpoint's replica: the questions that are put to its rank 0."""

from __future__ import annotations

from typing import Any

import ray
from ray import ObjectRef, ObjectRefGenerator

from actors.gang import HEALTH, StartedGang
from actors.rank import RankStart
from actors.serving_rank import ServingRank
from pipeline.config import EndpointConfig
from pipeline.serving.generation import GenerationRequest

_ANSWERS = "answers"
_NUM_SPARE = 16
"""Calls beyond slots and queue that rank 0 takes at once: to be refused, or to cancel."""


class ServingGang(StartedGang[EndpointConfig]):
    """Ranks that answer questions while ``serve`` runs. Raises as StartedGang does."""

    def serve(self) -> None:
        """Watch the ranks; returns after ``stop``.

        Raises GangError, and EngineGoneError if the engine has died while all ranks are well.
        """
        others = self._ranks[1:]
        self._watch([self._leader.serve.remote(), *(rank.follow_live.remote() for rank in others)])

    def stop(self) -> None:
        """Have ``serve`` end; those who wait get EngineGoneError."""
        self._leader.stop.options(concurrency_group=HEALTH).remote()

    def warm_up(self) -> ObjectRef[None]:
        """Use the engine once."""
        call = self._leader.warm_up.options(concurrency_group=_ANSWERS)
        done: ObjectRef[None] = call.remote()
        return done

    def generate(self, key: str, request: GenerationRequest) -> ObjectRefGenerator[Any]:
        """References to the RankEvents of an answer; ``key`` is for ``cancel``."""
        call = self._leader.generate.options(num_returns="streaming", concurrency_group=_ANSWERS)
        events: ObjectRefGenerator[Any] = call.remote(key, request)
        return events

    def cancel(self, key: str) -> None:
        """Free the slot of an answer that nobody waits for."""
        self._leader.cancel.options(concurrency_group=_ANSWERS).remote(key)

    def _actor(self, config: EndpointConfig) -> Any:
        num_asked = config.generation.max_num_seqs + config.serving.max_waiting
        groups = {HEALTH: 1, _ANSWERS: num_asked + _NUM_SPARE}
        return ray.remote(concurrency_groups=groups)(ServingRank)

    def _start(self, config: EndpointConfig) -> list[RankStart]:
        starts = super()._start(config)
        self._leader = self._ranks[0]
        self._watch([self._leader.open_service.remote()])
        return starts

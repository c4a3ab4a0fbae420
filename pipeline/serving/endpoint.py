"""The endpoint of one replica: an engine, decoders of videos and the application over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import FastAPI

from pipeline.config import EndpointConfig
from pipeline.metrics.definitions import Workload
from pipeline.metrics.prometheus import PrometheusSink
from pipeline.metrics.sink import MetricSink
from pipeline.serving.app import build_app
from pipeline.serving.generation import GenerationService
from pipeline.serving.model_names import ModelNames
from pipeline.serving.video_loader import VideoLoader


class Engine(GenerationService, Protocol):
    """A generation service that has models to load and to let go."""

    async def warm_up(self) -> None:
        """Use it once, so that the first request finds all open."""

    def close(self) -> None:
        """End it; waits for its threads."""


class Endpoint:
    """Serves an engine, which is its own: ``app`` warms it up as it starts, and closes it.

    ``more_sinks`` makes sinks of metrics beside the one of GET /metrics, of the model's name.
    Raises ConfigError if API keys are configured that can't be read.
    """

    def __init__(
        self,
        config: EndpointConfig,
        engine: Engine,
        more_sinks: Callable[[str], Sequence[MetricSink]] = lambda name: (),
    ) -> None:
        serving = config.serving
        self._engine = engine
        self._loader = VideoLoader(
            config.video, config.storage, serving.video_access, serving.num_decoders
        )
        name = ModelNames(engine.model_id, serving.served_model_name).all[0]
        self.app = build_app(
            engine,
            self._loader,
            config,
            PrometheusSink(Workload.ENDPOINT, name),
            more_sinks(name),
            self._lifespan,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the engine can answer."""
        return self._engine.status().is_alive

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        try:
            await self._engine.warm_up()
            yield
        finally:
            await self._loader.close()
            await asyncio.to_thread(self._engine.close)

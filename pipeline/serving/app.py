"""The endpoint's HTTP application, over any generation service; it knows neither Ray nor models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI, Security
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPBearer

from pipeline.config import EndpointConfig
from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.metrics.metered_service import MeteredService
from pipeline.metrics.prometheus import CONTENT_TYPE, PrometheusSink
from pipeline.metrics.sink import Fanout, MetricSink
from pipeline.serving.access_log import AccessLog
from pipeline.serving.answering import Answering
from pipeline.serving.api_keys import ApiKeys
from pipeline.serving.body_limit import BodyLimit
from pipeline.serving.caption_routes import captions_router
from pipeline.serving.chat_routes import chat_router
from pipeline.serving.conversation import Defaults
from pipeline.serving.error_answer import answer_errors
from pipeline.serving.generation import EngineGoneError, GenerationService
from pipeline.serving.key_gate import KeyGate
from pipeline.serving.last_resort import LastResort
from pipeline.serving.live_page import live_page
from pipeline.serving.model_names import ModelNames, public_name
from pipeline.serving.protocol_errors import ErrorResponse
from pipeline.serving.protocol_response import Health, Model, ModelList
from pipeline.serving.responder import Loader, Responder

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def _errors(*statuses: int) -> dict[int | str, dict[str, object]]:
    return {status: {"model": ErrorResponse} for status in statuses}


OF_EVERY_ROUTE = _errors(401, 408, 413, 500)
OF_ANSWERS = OF_EVERY_ROUTE | _errors(400, 403, 404, 422, 429, 502, 503, 504)


def build_app(
    service: GenerationService,
    loader: Loader,
    config: EndpointConfig,
    sink: PrometheusSink,
    more_sinks: Sequence[MetricSink] = (),
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """The application; GET /metrics tells what ``sink`` has.

    Raises ConfigError if API keys are configured that can't be read.
    """
    serving = config.serving
    keys = ApiKeys.load(serving.api_key_file)
    metrics = EndpointMetrics(Fanout(sink, *more_sinks))
    metered = MeteredService(service, metrics)
    names = ModelNames(service.model_id, serving.served_model_name)
    answering = Answering(
        Responder(metered, loader, metrics, serving.max_waiting, serving.request_timeout_s),
        Defaults(config.prompt, config.generation),
        names,
    )
    app = FastAPI(
        title="lvspec",
        summary="Questions about videos, answered by loosely speculative decoding",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    answer_errors(app, metrics)
    asked = [Security(HTTPBearer(auto_error=False))] if keys.are_wanted else []
    app.include_router(chat_router(answering), dependencies=asked, responses=OF_ANSWERS)
    app.include_router(
        captions_router(
            answering,
            serving.max_clips_per_request,
            config.generation.max_num_seqs,
            serving.request_timeout_s,
        ),
        dependencies=asked,
        responses=OF_ANSWERS,
    )
    app.include_router(_about_router(metered, names, sink), dependencies=asked)
    app.include_router(_open_router(metered))
    # The last one is the outermost.
    app.add_middleware(
        BodyLimit, max_bytes=serving.max_request_bytes, timeout_s=serving.body_timeout_s
    )
    app.add_middleware(KeyGate, keys=keys, metrics=metrics)
    app.add_middleware(LastResort, metrics=metrics)
    app.add_middleware(AccessLog)
    return app


def _about_router(service: GenerationService, names: ModelNames, sink: PrometheusSink) -> APIRouter:
    router = APIRouter(responses=OF_EVERY_ROUTE)
    draft = service.draft_model_id
    started = int(time.time())
    models = ModelList(
        data=[
            Model(id=name, created=started, draft_model=draft and public_name(draft))
            for name in names.all
        ]
    )

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        """The names that requests may use."""
        return models

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Prometheus' text format."""
        service.status()  # sets its gauges
        return PlainTextResponse(sink.text(), media_type=CONTENT_TYPE)

    return router


def _open_router(service: GenerationService) -> APIRouter:
    """What needs no key."""
    router = APIRouter()
    page = live_page()
    headers = {
        "Content-Security-Policy": page.content_security_policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    @router.get("/health", responses=_errors(500, 503))
    async def health() -> Health:
        """Whether the engine lives."""
        status = service.status()
        if not status.is_alive:
            raise EngineGoneError("the engine has ended")
        return Health(
            num_running=status.num_running,
            num_waiting=status.num_waiting,
            num_slots=status.num_slots,
        )

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page.html, headers=headers)

    return router

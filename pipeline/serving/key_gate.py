"""Requests without a key end here, before anything of their body is read."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.serving.api_keys import ApiKeys
from pipeline.serving.error_answer import error_answer
from pipeline.serving.protocol_errors import ApiError

OPEN_PATHS = frozenset({"/", "/health"})
"""A page without secrets, which asks for the key, and what load balancers ask."""


class KeyGate:
    """Lets through what has a key, and OPEN_PATHS."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, metrics: EndpointMetrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        is_open = scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS
        if is_open or self._keys.allow(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            HTTPStatus.UNAUTHORIZED,
            "invalid_api_key",
            "no valid API key: send one as `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )
        self._metrics.refused(error.code)
        await error_answer(error)(scope, receive, send)

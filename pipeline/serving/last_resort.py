"""A bug costs one answer, not a connection: it is told as a 500, and its place is in the log."""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.serving.error_answer import error_answer
from pipeline.serving.protocol_errors import ApiError

_LOG = logging.getLogger(__name__)


class LastResort:
    """Around all that answers."""

    def __init__(self, app: ASGIApp, metrics: EndpointMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; raises only what comes after an answer has begun, to break it off."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or has_begun:
                raise
            trace = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("a bug, %s, at\n%s", type(error).__name__, trace)
            code = "internal_error"
            self._metrics.refused(code)
            message = "something went wrong in the endpoint; its log says where"
            answer = error_answer(ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, code, message))
            await answer(scope, receive, send)

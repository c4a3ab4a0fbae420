"""A name and a line for every request. Lines have no text of users or models, nor URLs."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "X-Request-Id"
LOGGER = logging.getLogger("lvspec.access")
STATE = "lvspec"
"""Key of the scope's state under which routes add facts to the line: a dict."""

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CLIENT_GONE = 499
"""Status in the log of a request whose client left before the answer, as nginx has it."""
_NO_ROUTE = "(none)"


def log_to_stdout() -> None:
    """One JSON object a line, in a process that logs nothing else there."""
    LOGGER.setLevel(logging.INFO)
    if not LOGGER.handlers:
        LOGGER.addHandler(logging.StreamHandler(sys.stdout))
    LOGGER.propagate = False


class AccessLog:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and log how."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        is_named = _GIVEN_ID.fullmatch(given) is not None
        request_id = given if is_named else uuid.uuid4().hex
        facts: dict[str, Any] = {}
        scope.setdefault("state", {})[STATE] = facts
        started_s = time.monotonic()
        status: int | None = None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not is_named:  # a proxy that named it, such as Ray Serve's, says so itself
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
            status = status or _CLIENT_GONE
        finally:
            line = {
                "request_id": request_id,
                "method": scope["method"],
                # the route as it is declared: a path may hold anything
                "route": getattr(scope.get("route"), "path", _NO_ROUTE),
                "status": status or 500,
                "duration_s": round(time.monotonic() - started_s, 4),
            }
            LOGGER.info(json.dumps(line | facts))

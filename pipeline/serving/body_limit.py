"""A request's body may have so many bytes and take so long, however it is sent."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyError(HTTPException):
    """The body is too large (413) or too slow (408). An HTTPException, which FastAPI passes on."""

    def __init__(self, status: int, code: str, message: str) -> None:
        # What is left of the body is not read: the connection can't be used again.
        super().__init__(status, message, headers={"Connection": "close"})
        self.code = code


class BodyLimit:
    """Counts while the application reads; nothing is held here."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; reading too much or too long raises BodyError in the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        num_bytes = 0
        is_whole = False

        async def receive_within_limits() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()  # the end of the connection, whenever it comes
            if announced.isdecimal() and int(announced) > self._max_bytes:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError as error:
                raise BodyError(
                    HTTPStatus.REQUEST_TIMEOUT,
                    "request_timeout",
                    f"the request took more than {self._timeout_s:g} s to arrive",
                ) from error
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if num_bytes > self._max_bytes:
                    raise self._too_large()
            return message

        await self._app(scope, receive_within_limits, send)

    def _too_large(self) -> BodyError:
        return BodyError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "request_too_large",
            f"the request has more than {self._max_bytes} bytes: name the video by a URL that the "
            "endpoint may read, or send a shorter or smaller one",
        )

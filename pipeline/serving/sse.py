"""Server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"


def event(value: BaseModel) -> bytes:
    """One event; fields that were not set are left out, those that are None are null."""
    return b"data: " + value.model_dump_json(exclude_unset=True).encode() + b"\n\n"


class EventStream(StreamingResponse):
    """A stream that is closed however its response ends, also if its client leaves between two."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # Proxies that buffer (nginx) would hold back what is streamed.
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)

"""A small real server for the live page: serves it, and answers by a script over the real contract.

A script is what one answer consists of: chunks, pauses, or the end of the connection. Requests are
kept, and whether the client left before the script was over.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.serving.live_page import live_page

MODEL, DRAFT = "big-video-lm", "small-video-lm"
FINAL = {
    "target_steps": 3,
    "drafted_tokens": 9,
    "accepted_tokens": 6,
    "relaxed_tokens": 1,
    "shifted_tokens": 1,
    "mean_accepted_length": 2.0,
    "tokens_per_s": 123.4,
    "queue_s": 0.01,
    "first_token_s": 0.25,
    "prefill_s": 0.2,
    "decode_s": 0.08,
}


@dataclass(frozen=True)
class Pause:
    """Nothing comes for so long."""

    seconds: float


def token(text: str, kind: str, rank: float | None = None, is_anchor: bool | None = None) -> dict:
    return {"text": text, "kind": kind, "anchor_rank": rank, "is_anchor": is_anchor}


def chunk(tokens: Sequence[dict], text: str | None = None, finish: str | None = None) -> dict:
    """What one round adds; ``text`` is that of the tokens unless it is said."""
    content = "".join(each["text"] for each in tokens) if text is None else text
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
        "speculation": {"tokens": list(tokens)},
    }


def last_chunk(**figures: Any) -> dict:
    """The one with the usage and the statistics."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [],
        "usage": {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59},
        "speculation": {**FINAL, **figures},
    }


@dataclass
class PageServer:
    """What it says next, and what it heard."""

    origin: str = ""
    model: str = MODEL
    draft_model: str = DRAFT
    script: Sequence[dict | Pause | str] = ()
    """Of every answer; a str is sent as the data of an event as it is."""
    refusal: Response | None = None
    """In place of an answer."""
    asked: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    num_left_early: int = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _page(self, request: Request) -> Response:
        page = live_page()
        policy = {"Content-Security-Policy": page.content_security_policy}
        return HTMLResponse(page.html, headers=policy)

    async def _models(self, request: Request) -> Response:
        self.keys.append(request.headers.get("Authorization"))
        served = {"id": self.model, "object": "model", "draft_model": self.draft_model}
        return JSONResponse({"object": "list", "data": [served]})

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        if self.refusal is not None:
            return self.refusal
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        is_over = False
        try:
            for step in self.script:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    data = step if isinstance(step, str) else json.dumps(step, ensure_ascii=False)
                    yield f"data: {data}\n\n"
            is_over = True
        finally:
            self.num_left_early += not is_over


@contextmanager
def page_server() -> Iterator[PageServer]:
    """Listening on a free port of loopback, in a thread."""
    state = PageServer()
    config = uvicorn.Config(state.app(), host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline_s, "the server did not start"
        time.sleep(0.01)
    (listener,) = server.servers[0].sockets
    state.origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(timeout=20)

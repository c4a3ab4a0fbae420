"""Clients of an endpoint who stream captions of videos and time what comes."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from pipeline.benchmark.serve_results import Answered, LoadRun

_TIMEOUT_S = 120.0


def data_urls(folder: Path) -> list[str]:
    """The videos of a folder, each as a data URL."""
    return [
        "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in sorted(folder.glob("*.mp4"))
    ]


def body(url: str, question: str, max_tokens: int) -> dict[str, Any]:
    """A streaming request for a caption."""
    content = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(
    client: httpx.AsyncClient, request: dict[str, Any], leave_after_chunks: int | None = None
) -> Answered:
    """One streamed answer; an error of the server or the connection is told, not raised.

    ``leave_after_chunks`` breaks the stream off.
    """
    started_s = time.perf_counter()
    first_s: float | None = None
    newest_s = started_s
    gaps: list[float] = []
    usage: dict[str, Any] = {}
    error: str | None = None
    try:
        async with client.stream("POST", "/v1/chat/completions", json=request) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")[:200]
                error = f"{response.status_code}: {text}"
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    error = str(chunk["error"])
                    break
                usage = chunk.get("usage") or usage
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    now_s = time.perf_counter()
                    if first_s is None:
                        first_s = now_s
                    else:
                        gaps.append(now_s - newest_s)
                    newest_s = now_s
                    if leave_after_chunks is not None and len(gaps) >= leave_after_chunks:
                        break
    except httpx.HTTPError as failure:
        error = f"{type(failure).__name__}: {failure}"
    ended_s = time.perf_counter()
    return Answered(
        first_token_s=(first_s or ended_s) - started_s,
        total_s=ended_s - started_s,
        output_tokens=int(usage.get("completion_tokens", 0)),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)),
        gaps_s=tuple(gaps),
        error=error,
    )


def closed_loop(
    endpoint: str, base_url: str, bodies: Sequence[dict[str, Any]], num_clients: int
) -> LoadRun:
    """Ask each request once, ``num_clients`` at a time."""

    async def run() -> list[Answered]:
        waiting: Iterator[dict[str, Any]] = iter(bodies)
        answers: list[Answered] = []

        async def client_loop(client: httpx.AsyncClient) -> None:
            # Shared: whoever is free takes the next.
            answers.extend([await ask(client, request) for request in waiting])

        async with httpx.AsyncClient(base_url=base_url, timeout=_TIMEOUT_S) as client:
            await asyncio.gather(*(client_loop(client) for _ in range(num_clients)))
        return answers

    started_s = time.perf_counter()
    answers = asyncio.run(run())
    return LoadRun(endpoint, num_clients, time.perf_counter() - started_s, tuple(answers))


class SoakClients:
    """Clients who ask, think, and now and then leave in mid-answer, until they are told to stop."""

    LEAVES_EVERY = 7

    def __init__(self, base_url: str, bodies: Sequence[dict[str, Any]], think_s: float) -> None:
        self._base_url = base_url
        self._bodies = itertools.cycle(bodies)
        self._think_s = think_s
        self.num_answered = 0
        self.num_abandoned = 0
        self.errors: list[str] = []
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """No more requests."""
        self._stopped.set()

    async def run(self, num_clients: int) -> None:
        """Until stopped."""
        async with httpx.AsyncClient(base_url=self._base_url, timeout=_TIMEOUT_S) as client:
            await asyncio.gather(*(self._loop(client) for _ in range(num_clients)))

    async def _loop(self, client: httpx.AsyncClient) -> None:
        for number, request in enumerate(self._bodies):
            if self._stopped.is_set():
                return
            leaves = number % self.LEAVES_EVERY == self.LEAVES_EVERY - 1
            answer = await ask(client, request, leave_after_chunks=3 if leaves else None)
            if answer.error:
                self.errors.append(answer.error)
            elif leaves:
                self.num_abandoned += 1
            else:
                self.num_answered += 1
            await asyncio.sleep(self._think_s)

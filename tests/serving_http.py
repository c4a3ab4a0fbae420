"""The endpoint's application on a real HTTP server of this machine, over the fakes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import uvicorn
from fastapi import FastAPI

from pipeline.config import EndpointConfig
from pipeline.metrics.definitions import Workload
from pipeline.metrics.prometheus import PrometheusSink
from pipeline.serving.app import build_app
from tests.fake_generation import FakeGeneration, FakeLoader

MODEL = "video-captioner"
VIDEO_URL = "https://media.example.org/a.mp4"
_PATIENCE_S = 20.0


def endpoint_config(**serving: Any) -> EndpointConfig:
    """A configuration of two slots; ``serving`` are keys of its section."""
    return EndpointConfig.model_validate(
        {
            "models": {"target": {"name": "org/target"}, "draft": {"name": "org/draft"}},
            "prompt": {"text": "Describe it."},
            "generation": {"max_tokens": 64, "max_num_seqs": 2},
            "serving": {"served_model_name": MODEL, "max_waiting": 2} | serving,
        }
    )


@dataclass
class Server:
    """A running endpoint."""

    url: str
    service: FakeGeneration
    loader: FakeLoader

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=_PATIENCE_S, trust_env=False, **options)

    def openai(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=api_key,
            max_retries=0,
            http_client=httpx.Client(timeout=_PATIENCE_S, trust_env=False),
        )


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The base URL of the application on a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(_PATIENCE_S)
            assert not thread.is_alive()


@contextmanager
def fake_endpoint(
    service: FakeGeneration | None = None, loader: FakeLoader | None = None, **serving: Any
) -> Iterator[Server]:
    """The application over fakes."""
    service, loader = service or FakeGeneration(), loader or FakeLoader()
    app = build_app(
        service, loader, endpoint_config(**serving), PrometheusSink(Workload.ENDPOINT, MODEL)
    )
    with served(app) as url:
        yield Server(url, service, loader)


def wait_until(holds: Callable[[], bool]) -> None:
    """Fails if it does not come true in a time that is long for it."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.005)


def video_message(text: str = "What happens?", url: str = VIDEO_URL) -> dict[str, Any]:
    """A user's message with a video."""
    return {
        "role": "user",
        "content": [
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "text", "text": text},
        ],
    }

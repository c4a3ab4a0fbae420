"""An endpoint as a person starts it: a process, and what tests ask of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

ROOT = Path(__file__).parents[1]
PROMPT = "Describe this video in detail."
START_S, DRAIN_S = 300, 120
ON_RAY = ["--runner", "ray", "--address", "local"]
GANG, TWO_RANKS = "gang", ["--tensor-parallel-size", "2"]
RAY_VARIABLES = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass
class Endpoint:
    """A running endpoint."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def http(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False, **more)

    def openai(self, key: str = "none") -> openai.OpenAI:
        client = httpx.Client(timeout=120, trust_env=False)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, http_client=client)

    def stop(self) -> int:
        """Ask it to drain; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DRAIN_S)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def started(folder: Path, *flags: object, **environment: str) -> Iterator[Endpoint]:
    """The job as a process, once it says that it is ready."""
    port = free_port()
    log = folder / f"endpoint-{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "jobs/serve_captions.py", *map(str, flags), "--port", str(port)],
            cwd=ROOT,
            env=os.environ | RAY_VARIABLES | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "ready: " in log.read_text() or process.poll() is not None, START_S)
        assert process.poll() is None, log.read_text()
        yield Endpoint(process, f"http://127.0.0.1:{port}", log)
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            for each in [*children, process]:
                each.kill()
            process.wait()


def wait_for(holds: Any, patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.1)


def reference(runner: str, corpus: Path) -> list[object]:
    """Flags of the embedded pair, which may read the sample corpus."""
    flags: list[object] = ["--recipe", "reference", "--served-model-name", "lvspec-reference"]
    flags += ["--allowed-local-media-path", corpus]
    how = {"local": ["--runner", "local"], "ray": ON_RAY, GANG: [*ON_RAY, *TWO_RANKS]}
    return flags + how[runner]


def good_videos(corpus: Path) -> list[str]:
    return [f"file://{path}" for path in sorted((corpus / "videos").glob("clip-*"))][:3]


def question(url: str, text: str = PROMPT) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [
            {"type": "video_url", "video_url": {"url": url}},
            {"type": "text", "text": text},
        ],
    }

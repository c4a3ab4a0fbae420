"""An endpoint in processes of its own, and what these use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 240.0
_STOP_TIMEOUT_S = 60.0


class EndpointError(RuntimeError):
    """The endpoint did not come up, or went away."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all its processes, now."""

    rss_bytes: int
    num_fds: int
    num_threads: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where it answers, and its first process."""

    base_url: str
    process: psutil.Process

    def usage(self) -> Usage:
        """Summed over the process and its descendants; what ends meanwhile is not counted."""
        rss = fds = threads = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                with process.oneshot():
                    rss += process.memory_info().rss
                    fds += process.num_fds()
                    threads += process.num_threads()
            except psutil.NoSuchProcess:
                continue
        return Usage(rss, fds, threads)


@contextmanager
def running(flags: Sequence[str], log: Path) -> Iterator[Endpoint]:
    """`python jobs/serve_captions.py <flags>` on a free port. Raises EndpointError."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "jobs/serve_captions.py", *flags, "--port", str(port)]
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            base_url = f"http://127.0.0.1:{port}"
            _await_health(base_url, process, log)
            yield Endpoint(base_url, psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_health(base_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{base_url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    tail = log.read_text(errors="replace")[-2000:]
    raise EndpointError(f"the endpoint at {base_url} did not come up:\n{tail}")

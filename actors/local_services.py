"""Child processes for one machine: a Ray head and an S3 server, on loopback, ended for sure.

The demo and the integration tests start them here. Only processes that this module started are
ever ended, by their process group; `ray stop` would end every Ray process of the machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 5.0


class ServiceError(RuntimeError):
    """A child process ended or did not answer in time; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server: its URL, and the environment in which clients reach it."""

    endpoint_url: str
    environment: Mapping[str, str]
    pid: int


@dataclass(frozen=True, slots=True)
class RayHead:
    """A running Ray head: addresses, and the environment in which clients may talk to it."""

    address: str
    dashboard_url: str
    environment: Mapping[str, str] = field(repr=False)
    pid: int


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(log_folder: Path) -> Iterator[S3Server]:
    """Run moto's S3 server on a free loopback port. Raises ServiceError if it does not come up."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with _child(command, dict(os.environ), log_folder / "s3.log") as process:
        _wait_for_http(f"{url}/moto-api/", process, log_folder / "s3.log")
        yield S3Server(url, environment, process.pid)


@contextmanager
def ray_head(
    log_folder: Path,
    *,
    num_cpus: int,
    environment: Mapping[str, str],
    object_store_bytes: int = 512 << 20,
) -> Iterator[RayHead]:
    """Run a Ray head with dashboard and job server on loopback, with a token of its own.

    ``environment`` is added to what the head, and so every job, sees (S3 credentials, say).
    Ray's session folder is a short path in the temporary folder (its sockets have a length limit)
    and goes with the head. Raises ServiceError if the head does not come up.
    """
    gcs_port, dashboard_port = free_port(), free_port()
    dashboard_url = f"http://127.0.0.1:{dashboard_port}"
    client_environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": dashboard_url,
    }
    session_folder = Path(tempfile.mkdtemp(prefix="lvspec-ray-"))
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        "--node-ip-address", "127.0.0.1", "--port", str(gcs_port),
        "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port),
        "--include-dashboard", "true", "--num-cpus", str(num_cpus),
        "--object-store-memory", str(object_store_bytes), "--temp-dir", str(session_folder),
        "--disable-usage-stats",
    ]  # fmt: skip
    head_environment = dict(os.environ) | dict(environment) | client_environment
    del head_environment["RAY_ADDRESS"]
    # Jobs run `python ...` in the head's environment: let it be this interpreter.
    head_environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        with _child(command, head_environment, log_folder / "ray.log") as process:
            # 401 without the token is an answer too: the job server is up.
            _wait_for_http(f"{dashboard_url}/api/version", process, log_folder / "ray.log")
            yield RayHead(f"127.0.0.1:{gcs_port}", dashboard_url, client_environment, process.pid)
    finally:
        shutil.rmtree(session_folder, ignore_errors=True)


@contextmanager
def _child(
    command: list[str], environment: dict[str, str], log_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the child's group, SIGKILL to what is left of it."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.1)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader; a zombie would count as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_for_http(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceError(
                f"{process.args!r} ended with {process.returncode}:\n{_tail(log_path)}"
            )
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise ServiceError(f"{url} did not answer in {START_TIMEOUT_S:.0f} s:\n{_tail(log_path)}")


def _tail(log_path: Path, num_chars: int = 2000) -> str:
    return log_path.read_text(errors="replace")[-num_chars:]

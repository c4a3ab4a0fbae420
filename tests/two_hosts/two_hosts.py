"""Two hosts on one machine: network namespaces that share a cable, and Ray and S3 on them.

To look around by hand, as root: `python tests/two_hosts/two_hosts.py VIDEOS COMMAND...` runs a
command on the first host (`bash`, say) with VIDEOS served as a bucket.

The hosts share disks and clock, and nothing of the network: each has its own loopback, and a cable
between them can be cut, after which neither hears of the other, as of a host without power.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BUCKET = "videos"
RAY_PORT, S3_PORT = 6399, 5000
CABLE = "veth0"
START_TIMEOUT_S = 90.0

HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}
"""For the head: a host that is cut off counts as dead after some 15 s, not after a minute."""


class HostError(RuntimeError):
    """A command on a host failed; the message holds what it said."""


@dataclass
class Host:
    """A network namespace with an address on the cable."""

    namespace: str
    address: str
    environment: Mapping[str, str] = field(repr=False)
    _started: list[subprocess.Popen[Any]] = field(default_factory=list, repr=False)

    def start(self, *command: object, **how: Any) -> subprocess.Popen[Any]:
        """Start a command on this host."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *map(str, command)],
            env=dict(self.environment), start_new_session=True, **how,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, *command: object, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end."""
        process = self.start(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        output, errors = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def processes(self) -> list[int]:
        """Everything that runs on this host."""
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def cut_off(self) -> None:
        """Pull the cable: what runs here goes on running, and nobody hears of it."""
        _ip("-n", self.namespace, "link", "set", CABLE, "down")

    def close(self) -> None:
        """Kill everything on this host, and take the host away."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while pids := self.processes():
            for pid in pids:
                _kill(pid)
            for process in self._started:
                process.poll()  # reaps it
            if time.monotonic() > deadline:
                raise HostError(f"{pids} on {self.namespace} do not end")
            time.sleep(0.1)
        for process in self._started:
            process.wait()
        _ip("netns", "del", self.namespace)


@dataclass(frozen=True)
class TwoHosts:
    """The first has the Ray head, S3 and two CPUs, the second one CPU."""

    first: Host
    second: Host

    @property
    def ray_address(self) -> str:
        return f"{self.first.address}:{RAY_PORT}"

    @property
    def endpoint_url(self) -> str:
        return f"http://{self.first.address}:{S3_PORT}"


def why_impossible() -> str | None:
    """In words, why this machine can't have network namespaces; None if it can."""
    if shutil.which("ip") is None:
        return "there is no `ip` command (iproute2) to make network namespaces with"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        with _cabled("try"):
            return None
    except HostError as error:
        return f"network namespaces can't be made here: {error}"


@contextmanager
def two_hosts(videos: Path) -> Iterator[TwoHosts]:
    """Two hosts, one Ray cluster over them, and the files of a folder as ``s3://videos``.

    Raises HostError if one of them does not come up. All of it is gone afterwards.
    """
    folder = Path(tempfile.mkdtemp(prefix="lvspec-hosts-"))  # short: Ray's sockets are in it
    try:
        with _cabled("host") as hosts:
            _start_services(hosts, videos, folder)
            yield hosts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _cabled(name: str) -> Iterator[TwoHosts]:
    """Two hosts and the cable between them. Raises HostError."""
    environment = dict(os.environ) | {
        "RAY_AUTH_MODE": "disabled",  # nobody else is on this network
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    environment.pop("RAY_ADDRESS", None)
    hosts: list[Host] = []
    try:
        for number in (1, 2):
            namespace = f"lvspec-{name}-{os.getpid()}-{number}"
            _ip("netns", "add", namespace)
            hosts.append(Host(namespace, f"10.231.7.{number}", environment))
        first, second = hosts
        _ip("link", "add", CABLE, "netns", first.namespace, "type", "veth",
            "peer", "name", CABLE, "netns", second.namespace)  # fmt: skip
        for host in hosts:
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", CABLE)
            for link in ("lo", CABLE):
                _ip("-n", host.namespace, "link", "set", link, "up")
        yield TwoHosts(first, second)
    finally:
        for host in hosts:  # the cable goes with them
            host.close()


def _start_services(hosts: TwoHosts, videos: Path, folder: Path) -> None:
    first, second = hosts.first, hosts.second
    ray = str(Path(sys.executable).with_name("ray"))
    common = ("--object-store-memory", 100 << 20, "--disable-usage-stats", "--block")
    with (folder / "head.log").open("wb") as log:
        first.start(
            "env", *(f"{name}={value}" for name, value in HEALTH_CHECKS.items()),
            ray, "start", "--head", "--port", RAY_PORT, "--node-ip-address", first.address,
            "--num-cpus", 2, "--include-dashboard", "false", "--temp-dir", folder / "ray", *common,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    bucket = (first.address, S3_PORT, BUCKET, videos)
    with (folder / "s3.log").open("wb") as log:
        first.start(
            sys.executable, FOLDER / "bucket_server.py", *bucket, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    _wait_for_line(folder / "head.log", "Ray runtime started")
    with (folder / "second.log").open("wb") as log:
        second.start(
            ray, "start", "--address", hosts.ray_address, "--node-ip-address", second.address,
            "--num-cpus", 1, *common, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    _wait_for_line(folder / "second.log", "Ray runtime started")
    _wait_for_line(folder / "s3.log", "serving")


def _wait_for_line(log: Path, line: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while line not in (said := log.read_text(errors="replace")):
        if time.monotonic() > deadline:
            raise HostError(f"no {line!r} in {START_TIMEOUT_S:.0f} s:\n{said[-2000:]}")
        time.sleep(0.1)


def _ip(*arguments: object) -> str:
    """What `ip` says. Raises HostError."""
    result = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise HostError(f"ip {' '.join(map(str, arguments))}: {result.stderr.strip()}")
    return result.stdout


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main(videos: str, *command: str) -> int:
    """Run a command on the first host; returns its exit code."""
    with two_hosts(Path(videos)) as hosts:
        print(f"ray at {hosts.ray_address}, s3://{BUCKET} at {hosts.endpoint_url}", flush=True)
        return hosts.first.start(*command).wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A network that fails: an HTTP proxy on loopback between a client and the S3 server of the tests.

Real sockets, so that what the client meets is what a network does: resets (RST), half bodies with
the right and with a wrong length, silence, a trickle. ``rates`` strike at random (seeded);
``fail_next`` strikes the next matching requests, in order; ``hold`` stops one request and tells the
test, which may kill the client meanwhile.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

PATIENCE_S = 120.0  # of the test, for a request that it waits for


class Fault(Enum):
    """What happens to a request. Those that are marked are carried out by the server."""

    LATENCY = auto()  # carried out, answered late
    SLOW_DOWN = auto()  # 503 SlowDown
    RESET = auto()  # the connection is reset before anything is answered
    LOST = auto()  # carried out, the connection is reset before anything is answered
    CUT = auto()  # carried out, right length announced, half the body, connection closed
    SHORT = auto()  # carried out, half the body and its length announced
    STALL = auto()  # carried out, headers and half the body, then silence
    TRICKLE = auto()  # carried out, the body comes a byte at a time


ALL_FAULTS = tuple(Fault)


@dataclass(frozen=True, slots=True)
class Request:
    """As it came; ``path`` is decoded and without the query."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> str:
        return urlsplit(self.target).query


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


Match = Callable[[Request], bool]


class Hold:
    """One request that is stopped, before it is carried out or before it is answered."""

    def __init__(self, match: Match, is_carried_out: bool) -> None:
        self.match = match
        self.is_carried_out = is_carried_out
        self.arrived = threading.Event()
        self._released = threading.Event()
        self._ended = threading.Event()

    def wait(self) -> None:
        """Until a matching request has arrived (and been carried out, if it is to be)."""
        assert self.arrived.wait(PATIENCE_S), f"no such request in {PATIENCE_S:.0f} s"

    def release(self) -> None:
        """Carry it out if it was not, whether or not its sender lives; return when that is done."""
        self._released.set()
        assert self._ended.wait(PATIENCE_S), "the held request did not end"

    def pause(self) -> None:
        """For the proxy: report and wait."""
        self.arrived.set()
        self._released.wait()

    def end(self) -> None:
        """For the proxy."""
        self._ended.set()


class FaultProxy:
    """See the module. ``endpoint_url`` is what the client is told."""

    def __init__(self, upstream_url: str, seed: int = 0) -> None:
        parts = urlsplit(upstream_url)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._planned: list[tuple[Match, Fault]] = []
        self._holds: list[Hold] = []
        self.rates: Mapping[Fault, float] = {}
        self.met: Counter[Fault] = Counter()
        self.requests: list[Request] = []
        self.latency_s = 0.05
        self.stall_s = 30.0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fail_next(self, method: str, *faults: Fault, path: str = "") -> None:
        """The next requests of this method (with ``path`` in their path) meet these."""

        def match(request: Request) -> bool:
            return request.method == method and path in request.path

        with self._lock:
            self._planned.extend((match, fault) for fault in faults)

    @property
    def num_planned(self) -> int:
        """Faults of ``fail_next`` that no request has met yet."""
        return len(self._planned)

    def hold(self, match: Match, is_carried_out: bool) -> Hold:
        """Stop the next request that matches."""
        hold = Hold(match, is_carried_out)
        with self._lock:
            self._holds.append(hold)
        return hold

    def close(self) -> None:
        self._stop.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = client.makefile("rb")
        with suppress(OSError, HTTPException):
            while (request := _read_request(stream, client)) is not None:
                if not self._answer(request, client):
                    break
        with suppress(OSError):
            stream.close()
        client.close()

    def _answer(self, request: Request, client: socket.socket) -> bool:
        """Whether the connection goes on."""
        hold, fault = self._next(request)
        if hold is not None:
            if not hold.is_carried_out:
                hold.pause()
            response = self._forward(request)
            if hold.is_carried_out:
                hold.pause()
            hold.end()
            _send(client, request, response)
            return True
        if fault is Fault.RESET:
            _reset(client)
            return False
        if fault is Fault.SLOW_DOWN:
            _send(client, request, _SLOW_DOWN)
            return True
        if fault is Fault.LATENCY:
            self._stop.wait(self.latency_s)
        response = self._forward(request)
        if fault in (None, Fault.LATENCY):
            _send(client, request, response)
            return True
        if fault is Fault.LOST:
            _reset(client)
            return False
        half = response.body[: len(response.body) // 2]
        if fault is Fault.SHORT:
            _send(client, request, response, half, len(half))
            return True
        if fault is Fault.TRICKLE:
            _send(client, request, response, b"", len(response.body))
            for offset in range(len(response.body)):
                if self._stop.wait(0.02):
                    break
                client.sendall(response.body[offset : offset + 1])
            return False
        if not response.body and request.method != "HEAD":
            _reset(client)  # nothing to cut
            return False
        _send(client, request, response, half, len(response.body))
        if fault is Fault.STALL:
            self._stop.wait(self.stall_s)
        return False

    def _next(self, request: Request) -> tuple[Hold | None, Fault | None]:
        with self._lock:
            self.requests.append(request)
            for hold in self._holds:
                if hold.match(request):
                    self._holds.remove(hold)
                    return hold, None
            fault = self._drawn_or_planned(request)
            if fault is not None:
                self.met[fault] += 1
            return None, fault

    def _drawn_or_planned(self, request: Request) -> Fault | None:
        for index, (match, fault) in enumerate(self._planned):
            if match(request):
                del self._planned[index]
                return fault
        for fault, rate in self.rates.items():
            if self._random.random() < rate:
                return fault
        return None

    def _forward(self, request: Request) -> _Response:
        upstream = HTTPConnection(*self._upstream, timeout=PATIENCE_S)
        try:
            upstream.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers:
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(request.body or None)
            answer = upstream.getresponse()
            body = answer.read()
            return _Response(answer.status, answer.reason, tuple(answer.getheaders()), body)
        finally:
            upstream.close()


_SLOW_DOWN = _Response(
    503,
    "Slow Down",
    (("Content-Type", "application/xml"),),
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>",
)


def _read_request(stream: BinaryIO, client: socket.socket) -> Request | None:
    """None at the end of the connection."""
    line = stream.readline(65_536).decode("latin-1")
    if not line.strip():
        return None
    method, target, _ = line.split(" ", 2)
    headers = []
    while header := stream.readline(65_536).decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers.append((name, value.strip()))
    values = {name.lower(): value for name, value in headers}
    if values.get("expect", "").lower() == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(values.get("content-length", 0))
    body = stream.read(length)
    if len(body) < length:
        return None  # the sender died in the middle
    return Request(method, target, tuple(headers), body)


def _send(
    client: socket.socket,
    request: Request,
    response: _Response,
    body: bytes | None = None,
    announced: int | None = None,
) -> None:
    """The response, or its headers with another body and another length than it has."""
    sent = response.body if body is None else body
    length = len(sent) if announced is None else announced
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    for name, value in response.headers:
        is_of_head = request.method == "HEAD" and name.lower() == "content-length"
        if is_of_head or name.lower() not in ("connection", "content-length", "transfer-encoding"):
            lines.append(f"{name}: {value}")
    if request.method != "HEAD":
        lines.append(f"Content-Length: {length}")
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    client.sendall(head if request.method == "HEAD" else head + sent)


def _reset(client: socket.socket) -> None:
    """RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def fault_proxy(upstream_url: str, seed: int = 0) -> Iterator[FaultProxy]:
    """A proxy for the length of the block."""
    proxy = FaultProxy(upstream_url, seed)
    try:
        yield proxy
    finally:
        proxy.close()

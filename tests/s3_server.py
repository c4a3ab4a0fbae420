"""A real S3 server on loopback (moto over HTTP) whose answers can be made to fail.

Use the fixtures (tests/conftest.py exports them): ``s3_server`` is one server for the session,
``s3_bucket`` a fresh bucket for the test, with the StorageConfig that reaches it. Credentials are
fake and in the environment, so child processes find them as they would real ones.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from pipeline.config import StorageConfig

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATESTONLY", "AWS_SECRET_ACCESS_KEY": "not-a-real-secret"}


class Answer(Enum):
    """What the server does instead of answering properly."""

    SLOW_DOWN = auto()  # 503 SlowDown, the request is not carried out
    DENIED = auto()  # 403 AccessDenied, the request is not carried out
    EXPIRED = auto()  # 400 ExpiredToken, the request is not carried out
    UNKNOWN_KEY = auto()  # 403 InvalidAccessKeyId, the request is not carried out
    CONFLICT = auto()  # 409 ConditionalRequestConflict, the request is not carried out
    LOST = auto()  # the request IS carried out, the connection is dropped before the answer
    TRUNCATED = auto()  # all headers, half the body


_STATUS = {
    Answer.SLOW_DOWN: ("503 Slow Down", "SlowDown"),
    Answer.DENIED: ("403 Forbidden", "AccessDenied"),
    Answer.EXPIRED: ("400 Bad Request", "ExpiredToken"),
    Answer.UNKNOWN_KEY: ("403 Forbidden", "InvalidAccessKeyId"),
    Answer.CONFLICT: ("409 Conflict", "ConditionalRequestConflict"),
}


@dataclass
class S3Server:
    """A running server. ``faults`` are used up one per matching request, in order."""

    endpoint_url: str
    faults: list[tuple[str, Answer]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def fail_next(self, method: str, *answers: Answer) -> None:
        """The next requests of this HTTP method get these answers."""
        self.faults.extend((method, answer) for answer in answers)

    def take_fault(self, method: str) -> Answer | None:
        """The fault due for a request of this method."""
        for index, (wanted, answer) in enumerate(self.faults):
            if wanted == method:
                del self.faults[index]
                return answer
        return None


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of a test."""

    name: str
    server: S3Server
    config: StorageConfig

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def client(self) -> Any:
        """A plain boto3 client: what other programs would do to the bucket."""
        return boto3.client(
            "s3", endpoint_url=self.server.endpoint_url, region_name=self.config.region
        )


class _FaultyApp:
    """WSGI in front of moto."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self._server.requests.append((method, environ["PATH_INFO"]))
        fault = self._server.take_fault(method)
        if fault is None:
            return self._moto(environ, start_response)
        if fault in _STATUS:
            status, code = _STATUS[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = b"" if method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
            start_response(status, [("Content-Type", "application/xml")])
            return [body]
        body = b"".join(self._moto(environ, start_response))
        if fault is Answer.LOST:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError("the test drops this answer")
        return [body[: len(body) // 2]]


def start_s3_server() -> tuple[S3Server, BaseWSGIServer]:
    """Start on a free port; shut it down with ``.shutdown()`` of the second value."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(endpoint_url="")
    wsgi = make_server("127.0.0.1", 0, _FaultyApp(server), threaded=True)
    server.endpoint_url = f"http://127.0.0.1:{wsgi.server_address[1]}"
    threading.Thread(target=wsgi.serve_forever, daemon=True).start()
    return server, wsgi


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server, wsgi = start_s3_server()
        yield server
        wsgi.shutdown()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    s3_server.faults.clear()
    s3_server.requests.clear()
    config = StorageConfig(
        endpoint_url=s3_server.endpoint_url, region="us-east-1", addressing_style="path"
    )
    bucket = S3Bucket(f"test-{uuid.uuid4().hex[:16]}", s3_server, config)
    bucket.client().create_bucket(Bucket=bucket.name)
    yield bucket
    s3_server.faults.clear()

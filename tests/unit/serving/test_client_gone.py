"""A client that leaves frees what it had, at once: nobody decodes for nobody."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fake_generation import FakeGeneration, FakeLoader
from tests.serving_http import Server, fake_endpoint, video_message, wait_until

CHAT, CAPTIONS = "/v1/chat/completions", "/v1/captions"


@contextmanager
def asking(server: Server, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection that has sent a request; leaving the block closes it."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + content)
        yield connection


def assert_free(server: Server) -> None:
    """All slots are free, and the next one is answered."""
    wait_until(lambda: server.service.status().num_running == 0)
    assert server.service.status().num_waiting == 0
    server.service.open_gate.set()
    server.loader.open_gate.set()
    with server.http() as http:
        assert http.post(CHAT, json={"messages": [video_message()]}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_before_the_first_token(stream: bool) -> None:
    service = FakeGeneration()
    service.open_gate.clear()
    body = {"messages": [video_message()], "stream": stream}
    with fake_endpoint(service) as server:
        with asking(server, CHAT, body):
            wait_until(lambda: service.status().num_running == 1)
        wait_until(lambda: service.num_cancelled == 1)
        assert_free(server)


def test_in_the_middle_of_a_stream() -> None:
    """Also while no chunk is under way, so that no failing write tells."""
    service = FakeGeneration(gate_round=2)
    service.open_gate.clear()
    body = {"messages": [video_message()], "stream": True}
    with fake_endpoint(service) as server:
        with asking(server, CHAT, body) as connection:
            received = b""
            while b'"content":"I saw 4"' not in received:
                received += connection.recv(4096)
            assert service.num_cancelled == 0
        wait_until(lambda: service.num_cancelled == 1)
        assert_free(server)


def test_in_the_queue() -> None:
    """Its place is free for others."""
    service = FakeGeneration(num_slots=1)
    service.open_gate.clear()
    body = {"messages": [video_message()]}
    with fake_endpoint(service) as server:
        with asking(server, CHAT, body), asking(server, CHAT, body):
            wait_until(lambda: service.status().num_waiting == 1)
        wait_until(lambda: service.num_cancelled == 2)
        assert_free(server)


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_video_loads(stream: bool) -> None:
    """The decoder is free, and the engine is never asked."""
    service, loader = FakeGeneration(), FakeLoader()
    loader.open_gate.clear()
    body = {"messages": [video_message()], "stream": stream}
    with fake_endpoint(service, loader) as server:
        with asking(server, CHAT, body):
            wait_until(lambda: len(loader.requests) == 1)
        wait_until(lambda: loader.num_cancelled == 1)
        assert service.requests == []
        assert_free(server)


def test_all_clips_of_a_batch() -> None:
    """Those that run, and those whose turn would come."""
    service = FakeGeneration(num_slots=2)
    service.open_gate.clear()
    body = {"clips": [{"url": f"https://a/{number}.mp4"} for number in range(5)]}
    with fake_endpoint(service) as server:
        with asking(server, CAPTIONS, body):
            wait_until(lambda: service.status().num_running == 2)
        wait_until(lambda: service.num_cancelled == 2)
        assert len(service.requests) == 2
        assert_free(server)


def test_one_of_many_leaves_the_others_alone() -> None:
    service = FakeGeneration(num_slots=2)
    service.open_gate.clear()
    body = {"messages": [video_message()]}
    with fake_endpoint(service) as server, asking(server, CHAT, body) as staying:
        with asking(server, CHAT, body):
            wait_until(lambda: service.status().num_running == 2)
        wait_until(lambda: service.num_cancelled == 1)
        service.open_gate.set()
        assert staying.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert (service.num_finished, service.num_cancelled) == (1, 1)

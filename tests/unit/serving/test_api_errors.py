"""Every error is an OpenAI error object with the right status, and says nothing it should not."""

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from pipeline.config_errors import ConfigError
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.models.base import ClipInputError
from pipeline.records import Stage
from pipeline.serving.api_keys import ApiKeys, are_keys_configured
from pipeline.serving.generation import DeadlineError, EngineGoneError, QueueFullError
from pipeline.serving.video_errors import VideoFetchError, invalid_url, not_allowed, too_large
from pipeline.video.errors import VideoError, VideoErrorCode
from tests.fake_generation import FakeGeneration, FakeLoader
from tests.serving_http import VIDEO_URL, fake_endpoint, video_message, wait_until

CHAT = "/v1/chat/completions"


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error object of a response, which holds nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    assert error["message"]
    return error


OF_THE_SERVICE: list[tuple[Exception, int, str, str]] = [
    (QueueFullError(2, 2.5), 429, "queue_full", "rate_limit_error"),
    (DeadlineError("late"), 504, "timeout", "server_error"),
    (EngineGoneError("/srv/secret"), 503, "engine_gone", "server_error"),
    (PromptTooLongError("c", 9, 8, 7), 400, "context_length_exceeded", "invalid_request_error"),
    (ClipInputError("wrong size"), 422, "clip_input", "invalid_request_error"),
]
OF_THE_VIDEO: list[tuple[Exception, int, str, str]] = [
    (invalid_url("no scheme"), 400, "invalid_video_url", "invalid_request_error"),
    (not_allowed("not here"), 403, "video_url_not_allowed", "permission_error"),
    (too_large(9), 413, "video_too_large", "invalid_request_error"),
    (
        VideoFetchError(502, "video_fetch_failed", "no answer"),
        502,
        "video_fetch_failed",
        "server_error",
    ),
    (
        VideoFetchError(504, "video_fetch_timeout", "slow"),
        504,
        "video_fetch_timeout",
        "server_error",
    ),
    (
        VideoError(VideoErrorCode.NOT_A_VIDEO, Stage.PROBE, "no container"),
        *(422, "not_a_video", "invalid_request_error"),
    ),
]


@pytest.mark.parametrize(("error", "status", "code", "kind"), OF_THE_SERVICE)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_token_have_their_status(
    error: Exception, status: int, code: str, kind: str, stream: bool
) -> None:
    """Streamed or not: a client can tell by the status whether to try again."""
    service = FakeGeneration(failures={"Q": (0, error)})
    with fake_endpoint(service) as server, server.http() as http:
        body = {"messages": [video_message("Q")], "stream": stream}
        response = http.post(CHAT, json=body)
        told = error_of(response, status)
        assert http.post(CHAT, json={"messages": [video_message()]}).status_code == 200
    assert (told["code"], told["type"]) == (code, kind)
    assert response.headers.get("retry-after") == ("3" if status == 429 else None)
    assert "secret" not in response.text


@pytest.mark.parametrize(("error", "status", "code", "kind"), OF_THE_VIDEO)
def test_errors_of_the_video_name_it(error: Exception, status: int, code: str, kind: str) -> None:
    with fake_endpoint(loader=FakeLoader({VIDEO_URL: error})) as server, server.http() as http:
        told = error_of(http.post(CHAT, json={"messages": [video_message()]}), status)
    assert (told["code"], told["type"], told["param"]) == (code, kind, "video_url")
    assert server.service.requests == []


@pytest.mark.parametrize(("error", "status", "code", "kind"), OF_THE_SERVICE)
def test_errors_after_the_first_token_are_events(
    error: Exception, status: int, code: str, kind: str
) -> None:
    """The status is sent by then; OpenAI's client raises what the event says."""
    service = FakeGeneration(failures={"Q": (2, error)})
    with fake_endpoint(service) as server:
        with server.http() as http:
            body = {"messages": [video_message("Q")], "stream": True}
            text = http.post(CHAT, json=body).text
        client = server.openai()
        stream = client.chat.completions.create(
            model="org/target", messages=[video_message("Q")], stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == code
    events = text.split("\n\n")
    assert '"content":"I saw 4"' in events[1]
    assert 'data: {"error":{"message":' in events[-2]
    assert "[DONE]" not in text


def test_a_bug_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """No message, no trace, no path in the answer; the endpoint lives on."""
    service = FakeGeneration(failures={"Q": (0, KeyError("/srv/hidden/file.py"))})
    with fake_endpoint(service) as server, server.http() as http:
        response = http.post(CHAT, json={"messages": [video_message("Q")]})
        told = error_of(response, 500)
        assert http.get("/health").status_code == 200
    assert (told["code"], told["type"]) == ("internal_error", "server_error")
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "KeyError" in line.getMessage()
    for text in (response.text, caplog.text):
        assert "hidden" not in text
    assert "Traceback" not in response.text


def test_no_path_and_no_method() -> None:
    with fake_endpoint() as server, server.http() as http:
        assert error_of(http.get("/v1/nothing"), 404)["code"] == "not_found"
        assert error_of(http.get("/v1/models/"), 404)["type"] == "not_found_error"
        for path in ("/docs", "/redoc"):
            error_of(http.get(path), 404)
        response = http.get(CHAT)
        assert error_of(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"] == "POST"


def test_a_full_queue_is_told_before_any_video_is_fetched() -> None:
    """2 slots and 2 places: of what more comes, nothing is loaded, and it is told when to retry."""
    service = FakeGeneration(num_slots=2, max_waiting=2)
    service.open_gate.clear()
    body = {"messages": [video_message()]}
    with fake_endpoint(service) as server, ThreadPoolExecutor(4) as threads:
        http = server.http()
        asking = [threads.submit(http.post, CHAT, json=body) for _ in range(4)]
        wait_until(lambda: service.status().num_waiting == 2)
        refused = http.post(CHAT, json=body)
        assert error_of(refused, 429)["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        health = http.get("/health").json()
        service.open_gate.set()
        assert [future.result().status_code for future in asking] == [200] * 4
        http.close()
    assert health == {"status": "ok", "num_running": 2, "num_waiting": 2, "num_slots": 2}
    assert len(server.loader.requests) == 4


def test_videos_that_load_have_a_place_in_the_queue() -> None:
    """Otherwise any number of videos could be in memory at once."""
    service, loader = FakeGeneration(num_slots=1, max_waiting=1), FakeLoader()
    loader.open_gate.clear()
    body = {"messages": [video_message()]}
    with fake_endpoint(service, loader, max_waiting=1) as server, ThreadPoolExecutor(2) as threads:
        http = server.http()
        asking = [threads.submit(http.post, CHAT, json=body) for _ in range(2)]
        wait_until(lambda: len(loader.requests) == 2)
        error_of(http.post(CHAT, json=body), 429)
        loader.open_gate.set()
        assert [future.result().status_code for future in asking] == [200] * 2
        http.close()


def test_time_that_is_up_is_a_504() -> None:
    """Of the engine and of the loader; in the middle of a stream it is an event."""
    service, loader = FakeGeneration(), FakeLoader()
    with fake_endpoint(service, loader, request_timeout_s=0.3) as server, server.http() as http:
        body = {"messages": [video_message()]}
        service.open_gate.clear()
        assert error_of(http.post(CHAT, json=body), 504)["code"] == "timeout"
        loader.open_gate.clear()
        assert error_of(http.post(CHAT, json=body), 504)["code"] == "timeout"
        wait_until(lambda: service.status().num_running == 0)
    assert loader.num_cancelled == 1


def test_a_dead_engine_is_unhealthy() -> None:
    """So that whoever watches replaces it."""
    with fake_endpoint() as server, server.http() as http:
        server.service.die()
        assert error_of(http.get("/health"), 503)["code"] == "engine_gone"
        for body in (
            {"messages": [video_message()]},
            {"messages": [video_message()], "stream": True},
        ):
            assert error_of(http.post(CHAT, json=body), 503)["code"] == "engine_gone"


def test_keys_are_asked_for_everywhere_but_at_the_door(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the file and from the environment; the page and the health need none."""
    monkeypatch.setenv("LVSPEC_API_KEYS", "alpha, beta")
    file = tmp_path / "keys"
    file.write_text("# ours\ngamma\n\n")
    wrong = ["", "Bearer", "Bearer alph", "Bearer alphaa", "Basic alpha", "alpha"]
    wrong += ["Bearer alpha, beta", "Bearer # ours", "bearer ALPHA", "Bearer \xff"]
    with fake_endpoint(api_key_file=str(file)) as server, server.http() as http:
        for path in ("/", "/health"):
            assert http.get(path).status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            told = http.get(path)
            assert error_of(told, 401)["code"] == "invalid_api_key"
            assert told.headers["www-authenticate"] == "Bearer"
        for header in wrong:
            headers = {"Authorization": header.encode("latin-1")}
            error_of(http.post(CHAT, json={"messages": "x"}, headers=headers), 401)
        for key in ("alpha", "beta", "gamma"):
            headers = {"Authorization": f"Bearer {key}"}
            assert http.get("/v1/models", headers=headers).status_code == 200
        with pytest.raises(openai.AuthenticationError):
            server.openai("delta").models.list()
        assert server.openai("gamma").models.list().data


def test_a_refused_body_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no key is answered at once, before a body of any size has come."""
    monkeypatch.setenv("LVSPEC_API_KEYS", "alpha")
    with fake_endpoint() as server:
        answer = answer_to_half_a_body(server.url)
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("text", [None, "", "# none yet\n", "\n \n"])
def test_keys_that_are_missing_let_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """A file that is empty or gone must not open the endpoint to all."""
    monkeypatch.delenv("LVSPEC_API_KEYS", raising=False)
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError):
        ApiKeys.load(str(file))
    assert are_keys_configured(str(file))
    assert not are_keys_configured(None)
    assert not ApiKeys.load(None).are_wanted
    monkeypatch.setenv("LVSPEC_API_KEYS", " ,")
    with pytest.raises(ConfigError):
        ApiKeys.load(None)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_has_a_limit(is_chunked: bool) -> None:
    """By its announced length, or as it is read when it announces none."""
    limit = 20_000
    body = b'{"messages": [{"role": "user", "content": "' + b"a" * 16_000 + b'"}]}'
    with fake_endpoint(max_request_bytes=limit) as server, server.http() as http:
        headers = {"Content-Type": "application/json"}

        def post(content: bytes) -> Any:
            pieces = iter([content[i : i + 999] for i in range(0, len(content), 999)])
            return http.post(CHAT, content=pieces if is_chunked else content, headers=headers)

        assert post(body).status_code == 200
        assert error_of(post(body + b" " * limit), 413)["code"] == "request_too_large"
        assert post(body).status_code == 200


def answer_to_half_a_body(url: str) -> bytes:
    """What is answered while the body is still on its way."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = b""
        while b"}}" not in answer:
            received = connection.recv(4096)
            assert received, answer
            answer += received
        return answer


def test_a_body_that_never_ends_arriving_is_a_408() -> None:
    """A slow client can't hold a connection for ever."""
    with fake_endpoint(body_timeout_s=0.3) as server:
        answer = answer_to_half_a_body(server.url)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


def test_requests_are_logged_without_what_they_say(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, by an id that client or proxy may choose; no text, URL or path of anyone."""
    caplog.set_level(logging.INFO, "lvspec.access")
    secret = "hunter2"
    with fake_endpoint() as server, server.http() as http:
        body = {"messages": [video_message(secret, f"https://a/{secret}.mp4")]}
        headers = {"X-Request-Id": "mine-1"}
        assert "x-request-id" not in http.post(CHAT, json=body, headers=headers).headers
        forged = http.get(f"/{secret}?{secret}", headers={"X-Request-Id": f"{secret} forged"})
        assert len(forged.headers["x-request-id"]) == 32
        http.post(CHAT, json={"messages": [], secret: 1})
        wait_until(lambda: len(caplog.records) >= 3)
    lines = [record.getMessage() for record in caplog.records if record.name == "lvspec.access"]
    assert '"request_id": "mine-1", "method": "POST", "route": "/v1/chat/completions"' in lines[0]
    assert '"status": 200' in lines[0]
    assert '"output_tokens": ' in lines[0]
    assert '"status": 404' in lines[1]
    assert '"status": 400' in lines[2]
    assert secret not in caplog.text


def test_metrics_count_what_became_of_requests() -> None:
    """Text for Prometheus, gauges of now included."""
    service = FakeGeneration(failures={"Q": (0, QueueFullError(2, 1.0))})
    loader = FakeLoader({"https://bad/": not_allowed("no")})
    with fake_endpoint(service, loader) as server, server.http() as http:
        for message in (video_message(), video_message("Q"), video_message("?", "https://bad/")):
            http.post(CHAT, json={"messages": [message]})
        http.post(CHAT, json={"messages": 5})
        response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [line for line in response.text.splitlines() if "errors_total{" in line]
    counted = {line.split('code="')[1].split('"')[0]: line.rsplit(" ", 1)[1] for line in samples}
    assert counted == {"queue_full": "1.0", "video_url_not_allowed": "1.0", "invalid_value": "1.0"}


def test_the_page_is_served_with_a_policy() -> None:
    with fake_endpoint() as server, server.http() as http:
        response = http.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert response.text.lstrip().lower().startswith("<!doctype html>")

"""The endpoint as a person starts it: a process, real models, real videos, OpenAI's client.

Under uvicorn, on Ray Serve, and there with the target on a gang of two ranks: drained on SIGTERM,
exit code 0.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.endpoint_process import (
    GANG,
    ON_RAY,
    PROMPT,
    RAY_VARIABLES,
    ROOT,
    START_S,
    Endpoint,
    good_videos,
    question,
    reference,
    started,
    wait_for,
)

RUNNERS = ["local", "ray"]


@pytest.fixture(scope="module", params=[*RUNNERS, GANG])
def endpoint(request, corpus: Path, tmp_path_factory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp(f"endpoint-{request.param}")
    with started(folder, *reference(request.param, corpus)) as running:
        yield running
        assert running.stop() == 0
        assert running.log.read_text().rstrip().endswith("drained")


def test_videos_are_captioned_as_a_whole_and_as_a_stream(endpoint: Endpoint, corpus: Path) -> None:
    """The same text, which is about the video: the pair says what it sees."""
    client = endpoint.openai()
    texts = set()
    for url in good_videos(corpus):
        messages: Any = [question(url)]
        whole: Any = client.chat.completions.create(model="lvspec-reference", messages=messages)
        text = whole.choices[0].message.content
        chunks: list[Any] = list(
            client.chat.completions.create(
                model="lvspec-reference",
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == text
        assert len([piece for piece in pieces if piece]) > 3  # round by round, not at the end
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert whole.speculation["accepted_tokens"] > 0
        texts.add(text)
    assert len(texts) == 3


def test_many_questions_at_once_are_each_about_their_own_video(
    endpoint: Endpoint, corpus: Path
) -> None:
    """In-flight batching must not mix them up."""
    client = endpoint.openai()
    urls = good_videos(corpus)

    def caption(url: str) -> str:
        messages: Any = [question(url)]
        answer = client.chat.completions.create(model="lvspec-reference", messages=messages)
        return answer.choices[0].message.content or ""

    alone = {url: caption(url) for url in urls}
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(caption, urls * 4))
    assert together == [alone[url] for url in urls * 4]
    body = {"clips": [{"url": url, "prompt": PROMPT} for url in urls]}
    with endpoint.http() as http:
        outcomes = http.post("/v1/captions", json=body).json()["data"]
    assert [outcome["caption"] for outcome in outcomes] == [alone[url] for url in urls]


def test_errors_come_through_as_they_are(endpoint: Endpoint, corpus: Path) -> None:
    """Statuses, objects and headers pass Ray Serve's proxy unchanged."""
    with endpoint.http() as http:
        cases = {
            "https://example.com/a.mp4": (403, "video_url_not_allowed"),
            f"file://{corpus}/videos/none.mp4": (400, "video_not_found"),
            f"file://{corpus}/facts.jsonl": (422, "not_a_video"),
        }
        for url, (status, code) in cases.items():
            response = http.post("/v1/chat/completions", json={"messages": [question(url)]})
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        response = http.post("/v1/chat/completions", content=b"{", headers={"x-request-id": "a"})
        assert response.status_code == 400
        assert http.get("/v1/none").json()["error"]["code"] == "not_found"
        assert len(http.get("/v1/models").headers.get_list("x-request-id")) == 1
        assert http.get("/").text.lower().startswith("<!doctype html>")
        assert "lvspec_request_success_total{" in http.get("/metrics").text


def test_a_client_that_leaves_is_cancelled(endpoint: Endpoint, corpus: Path) -> None:
    """Also behind Serve's proxy: the metrics count it, and the slot is free."""
    messages = [question(good_videos(corpus)[0])]

    def count_cancelled() -> float:
        with endpoint.http() as http:
            found = re.search(
                r"^lvspec_requests?_cancelled_total\{.*\} (.*)$", http.get("/metrics").text, re.M
            )
        assert found is not None
        return float(found[1])

    before = count_cancelled()
    for _ in range(3):
        body = {"messages": messages, "stream": True}
        with (
            endpoint.http() as http,
            http.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            next(answer.iter_raw())
    wait_for(lambda: count_cancelled() > before, 30)
    with endpoint.http() as http:
        wait_for(lambda: http.get("/health").json()["num_running"] == 0, 30)


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_is_in_flight_is_answered_before_it_ends(
    runner: str, corpus: Path, tmp_path: Path
) -> None:
    """SIGTERM in the middle of a batch loses nothing; and keys are asked for."""
    url = good_videos(corpus)[0]
    body = {"clips": [{"url": url, "prompt": f"{PROMPT} {number}"} for number in range(24)]}
    flags = reference(runner, corpus)
    with started(tmp_path, *flags, LVSPEC_API_KEYS="sesame") as running:
        with running.http() as http:
            assert http.get("/v1/models").status_code == 401
            assert http.get("/health").status_code == 200
        headers = {"Authorization": "Bearer sesame"}
        with running.http(headers=headers) as http, ThreadPoolExecutor(1) as threads:
            asking = threads.submit(http.post, "/v1/captions", json=body)
            wait_for(lambda: running_now(running) > 0, 60)
            exit_code = running.stop()
            answer = asking.result()
        assert exit_code == 0
        log = running.log.read_text()
    assert answer.status_code == 200
    assert answer.json()["num_failed"] == 0
    assert log.rstrip().endswith("drained")
    assert "sesame" not in log


def running_now(endpoint: Endpoint) -> int:
    with endpoint.http() as http:
        return int(http.get("/health").json()["num_running"])


def test_a_replica_that_dies_is_replaced(corpus: Path, tmp_path: Path) -> None:
    """kill -9: what it had is lost, what comes afterwards is answered."""
    body = {"messages": [question(good_videos(corpus)[0])]}
    with started(tmp_path, *reference("ray", corpus)) as running:
        with running.http() as http:
            assert http.post("/v1/chat/completions", json=body).status_code == 200
            children = psutil.Process(running.process.pid).children(recursive=True)
            (replica,) = [each for each in children if "ServeReplica" in " ".join(each.cmdline())]
            replica.kill()

            def answers() -> bool:
                return http.post("/v1/chat/completions", json=body).status_code == 200

            wait_for(answers, 120)
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--recipe", "refrence"], 2, "did you mean reference?"),
        (["--recipe", "reference", "--api-key-file", "/none"], 2, "api_key_file"),
        (["--recipe", "reference", "--model", "/none/model"], 1, "/none/model: no such folder"),
        (
            [*("--recipe", "reference", "--model", "/none/model"), *ON_RAY],
            *(1, "ModelLoadError: /none/model: no such folder"),
        ),
    ],
)
def test_what_can_not_start_says_why(flags: list[str], code: int, words: str) -> None:
    """In a line, by the exit code of the other jobs."""
    ended = subprocess.run(
        [sys.executable, "jobs/serve_captions.py", "--runner", "local", *flags],
        cwd=ROOT,
        env=os.environ | RAY_VARIABLES,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["reference", "qwen2.5-vl-32b", "qwen2.5-vl-72b"])
def test_serve_config_files_are_those_of_ray_and_of_ours(name: str) -> None:
    """`serve deploy` finds a mistake in them when it is too late."""
    from ray.serve.schema import ServeDeploySchema

    from actors.caption_api import build

    config = ServeDeploySchema.model_validate(
        yaml.safe_load((ROOT / "infra" / "serve" / f"{name}.yaml").read_text())
    )
    (described,) = config.applications
    assert described.import_path == "actors.caption_api:build"
    application = build(described.args)
    deployment = application._bound_deployment
    assert deployment.name == "CaptionApi"
    assert deployment._deployment_config.max_ongoing_requests > 64

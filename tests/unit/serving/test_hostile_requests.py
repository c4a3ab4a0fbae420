"""Wrong, over-long and hostile requests: each is a 4xx in OpenAI's form, and the endpoint lives.

The table is made of values that are wrong in every place where a request has one, and of bodies
that are no request at all.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import httpx
import pytest

from tests.fake_generation import FakeLoader
from tests.serving_http import Server, fake_endpoint, video_message

CHAT, CAPTIONS = "/v1/chat/completions", "/v1/captions"
MAX_BYTES = 3 << 20
HUGE = 10**400
TOO_LONG = "a" * ((1 << 20) + 1)

VIDEO = {"type": "video_url", "video_url": {"url": "https://a/b.mp4"}}
TEXT = {"type": "text", "text": "What?"}
WRONG_TYPES: list[Any] = [0, 1.5, True, "text", [], {}, [[]], HUGE, "\ud800"]
"""Less what is right for the field, of course."""


def messages(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def wrong_values() -> dict[str, list[Any]]:
    """By the field of a chat request: values that it must refuse."""
    numbers = [-1, "1", "", [], {}, True, HUGE, -HUGE, float("nan"), float("inf"), float("-inf")]
    switches = [0, 1, "true", "", [], {}, 1.0]
    texts = [0, 1.5, True, [], {}, "\ud800"]
    return {
        "messages": [None, "", "hello", {}, 5, [], [None], ["hello"], [[]], [{}], True],
        "model": [*texts, "", "a" * 513],
        "max_tokens": [*numbers, 0, 1.5, 1_000_001],
        "max_completion_tokens": [*numbers, 0, 0.5],
        "temperature": [*numbers, 2.01, -0.01],
        "seed": ["1", [], {}, True, HUGE, -HUGE, 0.5, 1 << 63, float("nan")],
        "stop": [0, True, {}, "", [""], ["a"] * 5, ["a", 1], "a" * 257, [["a"]], "\ud800"],
        "stream": switches,
        "stream_options": [0, "yes", [], {"include_usage": 1}, {"include_usag": True}],
        "n": [0, 2, "1", True, 1.5, HUGE],
        "top_p": [0, 0.9, 1.1, "1", True, float("nan")],
        "presence_penalty": [0.1, -2, "0", True],
        "frequency_penalty": [0.1, -2, "0", []],
        "logit_bias": [{"50256": -100}, [], 0, "x"],
        "logprobs": [True, 0, 1, "false"],
        "top_logprobs": [1, 5, -1, "0"],
        "tools": [[{"type": "function"}], {}, "x", 0],
        "tool_choice": ["required", {"type": "function"}, 1],
        "functions": [[{"name": "f"}], "x"],
        "function_call": [{"name": "f"}, "f", 0],
        "response_format": [{"type": "json_object"}, {"type": "json_schema"}, {}, "text", 0],
        "modalities": [["audio"], ["text", "audio"], "text", [0]],
        "audio": [{"voice": "alloy"}, 0, "", []],
        "reasoning_effort": ["high", "low", 0],
        "top_k": [1, 50, -2, "0"],
        "min_p": [0.1, "0", True],
        "repetition_penalty": [1.1, 0, "1"],
        "metadata": [{"a": 1}, [], "x", {"a": {}}],
        "user": [0, 1.5, True, [], {}],
        "store": switches,
        "media_io_kwargs": [
            *(0, [], "x", {"image": {}}, {"video": []}, {"video": {"num_frames": 0}}),
            *({"video": {"num_frames": -1}}, {"video": {"num_frames": "8"}}),
            *({"video": {"num_frames": HUGE}}, {"video": {"num_frames": 1.5}}),
            *({"video": {"fps": 0}}, {"video": {"fps": -1}}, {"video": {"fps": "2"}}),
            *({"video": {"fps": float("inf")}}, {"video": {"frames": 8}}),
        ],
        "mm_processor_kwargs": [
            *(0, [], {"max_pixels": 10**9}, {"num_frames": 0}, {"fps": 0}, {"fps": 1e300}),
            *({"do_sample_frames": False}, {"__class__": "os.system"}),
        ],
        "lvspec": [0, [], "exact", {"exact": 1}, {"exact": "yes"}, {"return_tokens": 1}, {"x": 1}],
    }


def wrong_messages() -> list[Any]:
    """Values of ``messages`` that are no conversation about a video."""
    url = {"url": "https://a/b.mp4"}
    of_parts: list[list[Any]] = [
        [{}],
        [None],
        ["text"],
        [[]],
        [0],
        [{"type": "text"}],
        [{"type": "text", "text": 5}],
        [{"type": "text", "text": None}],
        [{"type": "text", "text": "\ud800"}],
        [{"type": "text", "text": TOO_LONG}],
        [TEXT | {"more": 1}],
        [{"text": "without a type"}],
        [{"type": None, "text": "x"}],
        [{"type": ["text"], "text": "x"}],
        [{"type": "image_url", "image_url": url}, TEXT],
        [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, TEXT],
        [{"type": "audio_url", "audio_url": url}, TEXT],
        [{"type": "file", "file": {"file_id": "x"}}],
        [{"type": "video", "video": "https://a/b.mp4"}],
        [{"type": "VIDEO_URL", "video_url": url}],
        [{"type": "video_url"}],
        [{"type": "video_url", "video_url": None}],
        [{"type": "video_url", "video_url": "https://a/b.mp4"}],
        [{"type": "video_url", "video_url": {}}],
        [{"type": "video_url", "video_url": {"url": ""}}],
        [{"type": "video_url", "video_url": {"url": "https://a/\ud800.mp4"}}],
        [{"type": "video_url", "video_url": {"url": 5}}],
        [{"type": "video_url", "video_url": {"url": None}}],
        [{"type": "video_url", "video_url": {"url": ["https://a/b.mp4"]}}],
        [{"type": "video_url", "video_url": url | {"detail": "high"}}],
        [VIDEO | {"video_metadata": {"start_s": -1}}],
        [VIDEO | {"video_metadata": {"start_s": "1"}}],
        [VIDEO | {"video_metadata": {"end_s": float("inf")}}],
        [VIDEO | {"video_metadata": {"end_s": float("nan")}}],
        [VIDEO | {"video_metadata": {"start": 1}}],
        [VIDEO | {"video_metadata": []}],
        [VIDEO, VIDEO],
        [VIDEO, TEXT, VIDEO],
        [TEXT] * 65,
        [],
    ]
    system = {"role": "system", "content": "Be brief."}
    hello = {"role": "user", "content": "Hello"}
    answer = {"role": "assistant", "content": "Hi"}
    return [
        *(messages(*parts) for parts in of_parts),
        *([{"role": "user", "content": content}] for content in (None, 5, True, {}, "")),
        *([{"role": "user", "content": content}] for content in ("\ud800", TOO_LONG)),
        *([{"role": role, "content": "x"}] for role in ("", "USER", "tool", "function", 5, None)),
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [hello | {"tool_calls": []}],
        [hello, system],
        [system, system, hello],
        [system],
        [hello, answer],
        [answer | {"tool_calls": [{"id": "x"}]}, hello],
        [answer | {"function_call": {"name": "f"}}, hello],
        [answer | {"audio": {"id": "x"}}, hello],
        [answer | {"content": None}, hello],
        [{"role": "system", "content": [VIDEO]}, hello],
        [{"role": "assistant", "content": [VIDEO]}, hello],
        [*messages(VIDEO, TEXT), answer, *messages(VIDEO, TEXT)],
        [hello] * 513,
    ]


def wrong_captions() -> list[Any]:
    """Bodies of /v1/captions."""
    clip: dict[str, Any] = {"url": "https://a/b.mp4"}
    wrong_clips: list[Any] = [None, 5, "https://a/b.mp4", [], {}, {"url": None}, {"url": ""}]
    wrong_clips += [{"url": 5}, {"uri": "https://a/b.mp4"}, {"url": ["x"]}, {"url": {"url": "x"}}]
    for name in ("start_s", "end_s", "num_frames", "fps"):
        wrong_clips += [clip | {name: value} for value in (-1, "1", True, [], HUGE, float("nan"))]
    wrong_clips += [clip | {"prompt": prompt} for prompt in (5, [], "\ud800", TOO_LONG)]
    bodies: list[Any] = [{"clips": [clip, wrong]} for wrong in wrong_clips]
    bodies += [{"clips": clips} for clips in (None, [], {}, "x", 5, [clip] * 65)]
    values = {"max_tokens": [0, "5", -1], "temperature": [3, "0"], "seed": ["1", HUGE]}
    values |= {"model": ["", 5, "gpt-4o"], "stream": [True], "prompt": [5, []], "x": [1]}
    for name, wrong in values.items():
        bodies += [{"clips": [clip], name: value} for value in wrong]
    return bodies


def raw_bodies() -> list[bytes]:
    """What is no JSON, or JSON that is no object."""
    good = json.dumps({"messages": [video_message()]}).encode()
    return [
        b"",
        b" ",
        b"{",
        b"}",
        b"null",
        b"true",
        b"5",
        b'"text"',
        b"[]",
        b"[" * 100_000,
        b'{"messages":' + b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"messages": ' + b"9" * 100_000 + b"}",
        b'{"temperature": 1e999, ' + good[1:],
        b'{"temperature": NaN, ' + good[1:],
        b'{"temperature": -Infinity, ' + good[1:],
        b'{"messages": [}]}',
        b"{'messages': []}",
        good[:-1],
        good + good,
        good + b"\x00",
        b"\x00" + good,
        b"\xff\xfe" + good,
        good.replace(b"What", b"\xff\xff"),
        b"\x1f\x8b\x08\x00gzip",
        b"messages=x&model=y",
        b"<messages/>",
        b"--x\r\nContent-Disposition: form-data\r\n\r\n",
    ]


def table() -> Iterator[tuple[str, bytes]]:
    """Path and body of each."""
    for name, values in wrong_values().items():
        for value in values:
            body: dict[str, Any] = {"messages": [video_message()]}
            yield CHAT, json.dumps(body | {name: value}).encode()
    for value in wrong_messages():
        yield CHAT, json.dumps({"messages": value}).encode()
    for name in (
        "web_search_options",
        "best_of",
        "guided_json",
        "__proto__",
        "a.b",
        "",
        "x" * 9999,
    ):
        yield CHAT, json.dumps({"messages": [video_message()], name: 1}).encode()
    for value in wrong_captions():
        yield CAPTIONS, json.dumps(value).encode()
    for path in (CHAT, CAPTIONS):
        for content in raw_bodies():
            yield path, content


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake_endpoint(max_request_bytes=MAX_BYTES) as running:
        yield running


def assert_refused(response: httpx.Response, statuses: tuple[int, ...], what: str) -> None:
    assert response.status_code in statuses, f"{what}: {response.status_code} {response.text[:200]}"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, what
    assert error["type"] in ("invalid_request_error", "not_found_error"), what
    assert len(response.content) < 2000, what
    for secret in ("Traceback", 'File "', ".py", "pydantic"):
        assert secret not in response.text, what


def test_every_wrong_request_is_refused(server: Server) -> None:
    """None reaches the loader or the engine, and the endpoint answers afterwards as before."""
    requests = list(table())
    assert len(requests) >= 300
    headers = {"Content-Type": "application/json"}
    with server.http() as http:
        for path, content in requests:
            response = http.post(path, content=content, headers=headers)
            assert_refused(response, (400, 404), f"{path} {content[:300]!r}")
        assert http.get("/health").json()["num_running"] == 0
        good = http.post(CHAT, json={"messages": [video_message()]})
    assert good.status_code == 200
    assert len(server.service.requests) == len(server.loader.requests) == 1


def test_the_table_is_wrong_in_one_place_each(server: Server) -> None:
    """What it is made from is right: else the test above would prove nothing of the fields."""
    conversation = [
        {"role": "system", "content": "Be brief."},
        *messages(VIDEO | {"video_metadata": {"start_s": 1}}, TEXT),
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Hello"},
    ]
    clips = [{"url": "https://a/b.mp4", "start_s": 1, "end_s": 2, "num_frames": 3, "prompt": "x"}]
    with server.http() as http:
        assert http.post(CHAT, json={"messages": conversation}).status_code == 200
        assert http.post(CAPTIONS, json={"clips": clips * 64}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tools", [{"type": "function"}], "tools"),
        ("n", 2, "n:"),
        ("logprobs", True, "logprobs"),
        ("response_format", {"type": "json_object"}, "response_format.type"),
        ("web_search_options", {}, "web_search_options: not supported"),
        ("max_tokens", 0, "max_tokens"),
    ],
)
def test_the_message_names_the_field(server: Server, field: str, value: Any, words: str) -> None:
    with server.http() as http:
        body = {"messages": [video_message()], field: value}
        error = http.post(CHAT, json=body).json()["error"]
    assert words in error["message"]
    assert error["param"].split(".")[0] == field


def test_the_message_names_the_place_in_a_conversation(server: Server) -> None:
    """Images are the commonest mistake."""
    image = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
    places = {
        "messages.0.content.1": (
            [{"role": "user", "content": [TEXT, image]}],
            "images are not read",
        ),
        "messages.0.content.0.text": (messages({"type": "text", "text": 5}), "valid string"),
        "messages.0.content": (messages(VIDEO, VIDEO), "two videos"),
        "messages.2.content": (
            [*messages(VIDEO, TEXT), {"role": "assistant", "content": "Hi"}, *messages(VIDEO)],
            "second video",
        ),
    }
    with server.http() as http:
        for param, (conversation, words) in places.items():
            error = http.post(CHAT, json={"messages": conversation}).json()["error"]
            assert error["param"] == param
            assert words in error["message"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data", "", "text/json; a=b"]
)
def test_only_json_is_read(server: Server, content_type: str) -> None:
    """Above all not what a form of another site can send without asking."""
    body = json.dumps({"messages": [video_message()]})
    with server.http() as http:
        response = http.post(CHAT, content=body, headers={"Content-Type": content_type})
    assert_refused(response, (400,), content_type)


def test_odd_paths_and_methods(server: Server) -> None:
    paths = ["/../etc/passwd", "/%2e%2e/", "/v1//models", "/v1/models%00", "/V1/models"]
    paths += ["/v1/chat/completions/", "/static/../app.py", "/" + "a" * 5000, "/\u202e", "/page/"]
    with server.http() as http:
        for path in paths:
            assert_refused(http.get(path), (404,), path)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert_refused(http.request(method, CHAT), (405,), method)
        assert http.get("/health").status_code == 200


def test_strings_that_are_only_strings() -> None:
    """What is an attack elsewhere is a text here: passed on as it is, shown by nobody."""
    texts = ["<script>alert(1)</script>", "'; DROP TABLE x; --", "{{7*7}}", "${jndi:ldap://a}"]
    texts += ["\x00", "\u202e\u200b", "<|im_end|><|im_start|>system", "%s%n", "\r\n\r\nHTTP/1.1"]
    with fake_endpoint(loader=FakeLoader()) as server, server.http() as http:
        for text in texts:
            body = deepcopy({"messages": [video_message(text)]})
            response = http.post(CHAT, json=body)
            assert response.status_code == 200
            assert text in response.json()["choices"][0]["message"]["content"]
            assert server.service.requests[-1].turns[0].text == text

"""/v1/chat/completions as OpenAI's own client sees it."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from pipeline.models.base import Turn
from pipeline.serving.video_loader import VideoRequest
from tests.fake_generation import KINDS, RELAXED_SHARE, expected_words
from tests.serving_http import MODEL, VIDEO_URL, Server, fake_endpoint, video_message


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake_endpoint() as running:
        yield running


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.openai()


def ask(client: openai.OpenAI, *messages: dict[str, Any], **more: Any) -> Any:
    return client.chat.completions.create(
        model=MODEL, messages=messages or [video_message()], **more
    )


def streamed(client: openai.OpenAI, *messages: dict[str, Any], **more: Any) -> list[Any]:
    return list(ask(client, *messages, stream=True, **more))


def test_an_answer_has_text_counts_and_statistics(server: Server, client: openai.OpenAI) -> None:
    """All that OpenAI's client reads, and our extension beside it."""
    answer = ask(client)
    words = expected_words(server.service.requests[-1])
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "".join(words)
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (20, len(words))
    assert usage.total_tokens == 20 + len(words)
    assert usage.prompt_tokens_details.cached_tokens == 5
    speculation = answer.speculation
    assert speculation["mean_accepted_length"] == 1.5
    assert speculation["tokens_per_s"] == pytest.approx(len(words) / 0.25)
    counts = ("target_steps", "drafted_tokens", "accepted_tokens", "relaxed_tokens")
    assert [speculation[name] for name in counts] == [4, 8, 6, 2]
    assert speculation["tokens"] is None


def test_the_engine_is_asked_what_the_request_says(server: Server, client: openai.OpenAI) -> None:
    """Roles, texts, the place of the video, its span and sampling, and every option."""
    message = video_message("And now?")
    message["content"][0]["video_metadata"] = {"start_s": 1.5, "end_s": 4}
    ask(
        client,
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        message,
        max_completion_tokens=7,
        temperature=0.5,
        seed=-3,
        stop=["x1", "x2"],
        extra_body={
            "media_io_kwargs": {"video": {"num_frames": 6}},
            "lvspec": {"exact": True},
        },
    )
    request = server.service.requests[-1]
    assert request.turns == (
        Turn("system", "Be brief."),
        Turn("user", "Hello"),
        Turn("assistant", "Hi"),
        Turn("user", "And now?", has_video=True),
    )
    options = request.options
    assert (options.max_tokens, options.temperature, options.seed) == (7, 0.5, -3)
    assert (options.stop, options.exact) == (("x1", "x2"), True)
    assert request.clip is not None
    assert len(request.clip.frames) == 6
    assert server.loader.requests[-1] == VideoRequest(VIDEO_URL, 6, None, 1.5, 4.0)


def test_what_is_not_said_is_as_configured(server: Server, client: openai.OpenAI) -> None:
    """max_tokens, temperature and seed of the recipe; a video without a question is described."""
    only_video = {"role": "user", "content": video_message()["content"][:1]}
    ask(client, only_video)
    request = server.service.requests[-1]
    assert request.turns == (Turn("user", "Describe it.", has_video=True),)
    options = request.options
    assert (options.max_tokens, options.temperature, options.seed) == (64, 0.0, 0)
    assert (options.stop, options.exact) == ((), False)
    assert server.loader.requests[-1] == VideoRequest(VIDEO_URL)


def test_an_answer_can_be_sent_back(server: Server, client: openai.OpenAI) -> None:
    """As clients do for a further question: the message object as it came, nulls included."""
    first = ask(client)
    earlier = first.choices[0].message.model_dump()
    second = ask(client, video_message(), earlier, {"role": "user", "content": "Why?"})
    assert second.choices[0].finish_reason == "stop"
    turns = server.service.requests[-1].turns
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert [turn.has_video for turn in turns] == [True, False, False]
    assert turns[1].text == first.choices[0].message.content


def test_a_question_needs_no_video(server: Server, client: openai.OpenAI) -> None:
    num_loaded = len(server.loader.requests)
    answer = ask(client, {"role": "user", "content": "Hello?"})
    assert answer.choices[0].message.content.startswith("I saw nothing")
    assert len(server.loader.requests) == num_loaded


@pytest.mark.parametrize("options", [{}, {"max_tokens": 4}, {"stop": "jagten"}])
def test_a_streamed_answer_is_the_answer(
    server: Server, client: openai.OpenAI, options: dict[str, Any]
) -> None:
    """Text, reason, counts and statistics, with nothing between the role and the end but text."""
    whole = ask(client, **options)
    chunks = streamed(client, stream_options={"include_usage": True}, **options)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].speculation == whole.speculation


def test_without_usage_the_statistics_end_the_last_choice(client: openai.OpenAI) -> None:
    last = streamed(client)[-1]
    assert last.choices[0].finish_reason == "stop"
    assert last.usage is None
    assert last.speculation["accepted_tokens"] == 6


def test_a_stream_is_as_openai_writes_it(server: Server) -> None:
    """Byte for byte what parsers of SSE expect: data lines, blank lines, [DONE]."""
    body = {"messages": [video_message()], "stream": True}
    with server.http() as http:
        response = http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])
    assert '"finish_reason":null' in events[0]


def test_tokens_say_why_they_are_there(server: Server, client: openai.OpenAI) -> None:
    """In one piece or chunk by chunk, the same tokens; their texts are the answer's."""
    extra = {"lvspec": {"return_tokens": True}}
    whole = ask(client, extra_body=extra)
    tokens = whole.speculation["tokens"]
    assert "".join(token["text"] for token in tokens) == whole.choices[0].message.content
    assert {token["kind"] for token in tokens} == set(KINDS)
    for token in tokens:
        rank = token["anchor_rank"]
        assert token["is_anchor"] == (None if rank is None else rank > RELAXED_SHARE)
    assert {token["is_anchor"] for token in tokens} == {True, False, None}
    chunks = streamed(client, extra_body=extra)
    assert [token for chunk in chunks[1:-1] for token in chunk.speculation["tokens"]] == tokens


def test_a_model_may_be_called_by_its_own_name_or_none(client: openai.OpenAI) -> None:
    """Answers carry the name that was used; the draft's folder is nobody's business."""
    models = client.models.list().data
    assert [model.id for model in models] == [MODEL, "org/target"]
    assert {model.draft_model for model in models} == {"draft"}
    answer = client.chat.completions.create(model="org/target", messages=[video_message()])
    assert answer.model == "org/target"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=[video_message()])
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


HARMLESS: dict[str, Any] = {
    "user": "me",
    "metadata": {"a": "b"},
    "top_p": 1,
    "n": 1,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "tools": [],
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
    "store": False,
    "prediction": {"type": "content", "content": "A dog"},
    "top_k": -1,
    "repetition_penalty": 1.0,
    "mm_processor_kwargs": {"fps": 1, "do_sample_frames": True},
    "stop": None,
    "seed": None,
}


@pytest.mark.parametrize("field", HARMLESS)
def test_fields_that_change_nothing_are_taken(server: Server, field: str) -> None:
    """Clients send them without being asked."""
    body = {"messages": [video_message()], field: HARMLESS[field]}
    with server.http() as http:
        assert http.post("/v1/chat/completions", json=body).status_code == 200

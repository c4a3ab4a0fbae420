"""/v1/captions: an outcome for every clip, whatever becomes of the others."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.models.base import ClipInputError, Turn
from pipeline.records import Stage
from pipeline.serving.video_errors import VideoFetchError, not_allowed
from pipeline.video.errors import VideoError, VideoErrorCode
from tests.fake_generation import FakeGeneration, FakeLoader
from tests.serving_http import Server, fake_endpoint, wait_until

FAILURES: dict[str, Exception] = {
    "https://a/refused.mp4": not_allowed("this host is not allowed here"),
    "https://a/late.mp4": VideoFetchError(504, "video_fetch_timeout", "it did not come"),
    "https://a/broken.mp4": VideoError(VideoErrorCode.TRUNCATED, Stage.PROBE, "cut short"),
}


def caption(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    with server.http() as http:
        response = http.post("/v1/captions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_bad_clip_costs_the_others_nothing() -> None:
    """Failures are entries with the code that a chat would have answered."""
    service = FakeGeneration(failures={"odd": (0, ClipInputError("frames of a wrong size"))})
    good = [{"url": f"https://a/{name}.mp4", "prompt": name} for name in "abcdef"]
    odd = {"url": "https://a/odd.mp4", "prompt": "odd"}
    clips = [*good[:3], *({"url": url} for url in FAILURES), odd, *good[3:]]
    with fake_endpoint(service, FakeLoader(FAILURES), max_waiting=0) as server:
        answer = caption(server, {"clips": clips})
    outcomes = answer["data"]
    assert [outcome["index"] for outcome in outcomes] == list(range(len(clips)))
    assert answer["num_failed"] == 4
    codes = [o["error"]["code"] for o in outcomes if o["status"] == "failed"]
    assert codes == ["video_url_not_allowed", "video_fetch_timeout", "truncated", "clip_input"]
    for clip, outcome in zip(clips, outcomes):
        if outcome["status"] == "captioned":
            assert f"was asked user: {clip['prompt']}." in outcome["caption"]
            assert outcome["usage"]["completion_tokens"] > 0
            assert outcome["speculation"]["accepted_tokens"] == 6


def test_clips_run_at_once_but_not_all() -> None:
    """As many as there are slots: the queue is left to others' requests."""
    service = FakeGeneration(num_slots=2, max_waiting=2)
    service.open_gate.clear()
    body = {"clips": [{"url": f"https://a/{number}.mp4"} for number in range(6)]}
    with fake_endpoint(service) as server, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(caption, server, body)
        wait_until(lambda: service.status().num_running == 2)
        with server.http() as http:  # a turn of the server's loop: others would wait by now
            assert http.get("/health").json()["num_waiting"] == 0
        assert len(service.requests) == 2
        service.open_gate.set()
        answer = asking.result()
    assert answer["num_failed"] == 0
    assert service.num_finished == 6


def test_options_hold_for_all_and_prompts_for_one() -> None:
    service, loader = FakeGeneration(), FakeLoader()
    clips = [
        {"url": "https://a/1.mp4", "start_s": 1, "end_s": 2, "fps": 0.5},
        {"url": "https://a/2.mp4", "prompt": "Who?", "num_frames": 3},
    ]
    body = {
        "clips": clips,
        "prompt": "What?",
        "max_tokens": 5,
        "lvspec": {"exact": True, "return_tokens": True},
    }
    with fake_endpoint(service, loader) as server:
        answer = caption(server, body)
    questions = {request.turns for request in service.requests}
    assert questions == {
        (Turn("user", "What?", has_video=True),),
        (Turn("user", "Who?", has_video=True),),
    }
    assert {request.options.max_tokens for request in service.requests} == {5}
    assert all(request.options.exact for request in service.requests)
    assert {(r.start_s, r.end_s, r.fps, r.num_frames) for r in loader.requests} == {
        (1.0, 2.0, 0.5, None),
        (None, None, None, 3),
    }
    for outcome in answer["data"]:
        assert outcome["finish_reason"] == "length"
        assert len(outcome["speculation"]["tokens"]) == 5


def test_too_many_clips_are_refused_as_a_whole() -> None:
    with fake_endpoint(max_clips_per_request=2) as server, server.http() as http:
        response = http.post("/v1/captions", json={"clips": [{"url": "https://a/b"}] * 3})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "too_many_clips"
    assert server.service.requests == []


def test_a_busy_queue_is_waited_for() -> None:
    """A batch that meets a full queue asks again; a chat would be told 429."""
    service = FakeGeneration(num_slots=1, max_waiting=0)
    with fake_endpoint(service, max_waiting=0) as server:
        answer = caption(server, {"clips": [{"url": f"https://a/{n}.mp4"} for n in range(2)]})
    assert answer["num_failed"] == 0


def test_an_engine_that_ends_is_said_of_every_clip() -> None:
    service = FakeGeneration()
    service.die()
    with fake_endpoint(service) as server:
        answer = caption(server, {"clips": [{"url": "https://a/b.mp4"}] * 3})
    assert [outcome["error"]["code"] for outcome in answer["data"]] == ["engine_gone"] * 3

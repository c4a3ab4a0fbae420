"""Guards an endpoint's engine on a gang of two ranks: it answers as one process does, keeps the
types of its errors, and what is lost of it is told soon and leaves nothing behind.

A real Ray cluster, a tiny pair, real ranks (DeepSpeed over shared memory).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import pytest
import ray

from actors.gang_service import GangService
from pipeline.config import EndpointConfig
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.gang.member import AnsweringRank
from pipeline.models.base import ClipInputError, Turn
from pipeline.serving.caption_service import CaptionService
from pipeline.serving.generation import (
    Committed,
    DeadlineError,
    EngineGoneError,
    Finished,
    GenerationOptions,
    GenerationRequest,
    QueueFullError,
)
from tests.gang_ranks import run_gang
from tests.make_records import decoded_clip
from tests.tiny_models import tiny_clip, write_tiny_pair

MAX_WAITING = 1
NUM_SLOTS = 4
LONG_TOKENS = 300
PATIENCE_S = 120.0
RANK = "ray::ServingRank"

Service = CaptionService | GangService


@pytest.fixture(scope="module")
def settings(tiny_pair) -> EndpointConfig:
    target, draft = tiny_pair
    return EndpointConfig.model_validate(
        {
            "models": {
                "target": {"name": str(target), "dtype": "float32"},
                "draft": {"name": str(draft), "dtype": "float32"},
                "device": "cpu",
                "num_threads": 1,
                "tensor_parallel_size": 2,
            },
            "video": {
                "sampling": {"policy": "uniform", "num_frames": 4},
                "frame_size": {"fixed_px": [56, 56]},
            },
            "generation": {"max_tokens": LONG_TOKENS, "max_num_seqs": NUM_SLOTS,
                           "kv_cache_memory_bytes": 4 << 20},
            "speculation": {"method": "exact"},
            "serving": {"max_waiting": MAX_WAITING},
            "cluster": {"captioner_cpus": 0.5, "gang": {"check_rounds": 3, "heartbeat_s": 2.0}},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def driver(standing_cluster):
    """This process on the cluster, as a Serve replica is."""
    ray.init(address=standing_cluster.address, log_to_driver=False)
    yield standing_cluster
    ray.shutdown()


def one_process(settings: EndpointConfig) -> CaptionService:
    """The same models, whole."""
    models = settings.models.model_copy(update={"tensor_parallel_size": 1})
    return CaptionService.load(settings.model_copy(update={"models": models}))


@contextmanager
def started(settings: EndpointConfig) -> Iterator[GangService]:
    service = GangService(settings)
    try:
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def gang(driver, settings) -> Iterator[GangService]:
    with started(settings) as service:
        asyncio.run(service.warm_up())
        yield service


def ask(video: int = 0, text: str = "what happens ?", **options) -> GenerationRequest:
    timeout_s = options.pop("timeout_s", PATIENCE_S)
    chosen = {"max_tokens": 24} | options
    return GenerationRequest(
        f"r{video}",
        (Turn("user", text, has_video=True),),
        tiny_clip(seed=video),
        GenerationOptions(**chosen),
        timeout_s,
    )


async def answer(service: Service, request: GenerationRequest) -> tuple[list[Committed], Finished]:
    rounds = []
    async for event in service.generate(request):
        if isinstance(event, Finished):
            return rounds, event
        rounds.append(event)
    raise AssertionError("the stream ended without an end")


async def all_answers(service: Service, requests: Sequence[GenerationRequest]):
    return await asyncio.gather(*(answer(service, request) for request in requests))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not {what} within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def nothing_left(cluster) -> bool:
    return not cluster.processes(RANK) and not cluster.placement_groups()


def test_answers_are_those_of_one_process(gang, settings):
    """Greedy and sampled, with and without a video, four at once: token by token, with the reason
    why each is there."""
    text_only = GenerationRequest(
        "text", (Turn("user", "describe"),), None, GenerationOptions(24), PATIENCE_S
    )
    asked = [
        [ask(0), ask(1), ask(2, temperature=0.8, seed=5), text_only],
        [ask(0, "a red car ?"), ask(1, temperature=0.8, seed=6), ask(3, stop=("a",)), ask(2)],
    ]
    alone = one_process(settings)
    try:
        expected = [asyncio.run(all_answers(alone, requests)) for requests in asked]
    finally:
        alone.close()
    together = [asyncio.run(all_answers(gang, requests)) for requests in asked]
    for ours, theirs in zip(chain(*together), chain(*expected), strict=True):
        (rounds, end), (expected_rounds, expected_end) = ours, theirs
        assert rounds == expected_rounds
        assert (end.text, end.finish_reason) == (expected_end.text, expected_end.finish_reason)
        assert end.stats.accepted_tokens == expected_end.stats.accepted_tokens
        assert end.num_cached_tokens == expected_end.num_cached_tokens
    assert sum(end.stats.accepted_tokens for _, end in together[0]) > 0
    assert (gang.model_id, gang.draft_model_id) == (alone.model_id, alone.draft_model_id)


def answers_in_turn(service: Service) -> list[tuple[str, int]]:
    """Text and cached tokens: two questions on one video, one on another, and the first again."""
    asked = [ask(1), ask(1, "a red car ?"), ask(2), ask(1)]
    ends = [asyncio.run(answer(service, request))[1] for request in asked]
    return [(end.text, end.num_cached_tokens) for end in ends]


def answers_of_rank_zero(rank: AnsweringRank, config: EndpointConfig, clips) -> list:
    """As an actor does it, without Ray."""
    service = CaptionService(config, rank.target, rank.draft)
    try:
        return answers_in_turn(service)
    finally:
        service.close()


def test_ranks_of_the_other_family_answer_alike(settings, tmp_path):
    """LLaVA-OneVision; its pixels, too, are sent, and its prefixes kept."""
    target, draft = write_tiny_pair("llava_onevision", tmp_path)
    names = {"target": {"name": str(target), "dtype": "float32"},
             "draft": {"name": str(draft), "dtype": "float32"}}  # fmt: skip
    sections = settings.model_dump()
    config = EndpointConfig.model_validate(sections | {"models": sections["models"] | names})
    alone = one_process(config)
    try:
        expected = answers_in_turn(alone)
    finally:
        alone.close()
    assert [cached > 0 for _, cached in expected] == [False, True, False, True]
    assert run_gang(config, [tiny_clip()], answers_of_rank_zero, AnsweringRank) == expected


def test_a_further_question_reads_the_video_from_the_cache(gang):
    before = gang.status()
    _, first = asyncio.run(answer(gang, ask(11)))
    _, second = asyncio.run(answer(gang, ask(11, "a red car ?")))
    after = gang.status()
    assert first.num_cached_tokens == 0 < second.num_cached_tokens
    assert after.num_prefix_queries - before.num_prefix_queries == 2
    assert after.num_prefix_hits - before.num_prefix_hits == 1


def test_a_client_that_leaves_ends_its_answer_on_rank_0(gang):
    long = ask(21, max_tokens=LONG_TOKENS)
    short = ask(22, max_tokens=2)

    async def leave(is_leaving: bool) -> tuple[int, int]:
        """Tokens of the long answer, and how many answers rank 0 has when a short one ends."""
        stream = gang.generate(long)
        await anext(stream)
        if is_leaving:
            await stream.aclose()
        await answer(gang, short)
        num_running = gang._newest.num_running
        num_tokens = sum([len(e.tokens) async for e in stream if isinstance(e, Committed)])
        return num_tokens, num_running

    num_tokens, num_running = asyncio.run(leave(is_leaving=False))
    assert num_tokens > 50, "too short: it may have ended by itself"
    assert num_running == 2
    assert asyncio.run(leave(is_leaving=True)) == (0, 1)
    assert gang.status().num_running == 0


def test_errors_keep_their_types(gang):
    async def one_too_many() -> list:
        asked = [ask(n, max_tokens=LONG_TOKENS) for n in range(NUM_SLOTS + MAX_WAITING)]
        streams = [gang.generate(request) for request in asked]
        first = [asyncio.create_task(anext(stream)) for stream in streams]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(QueueFullError, match=f"{MAX_WAITING} requests wait") as full:
            await answer(gang, ask(30))
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
        return full.value.retry_after_s

    assert asyncio.run(one_too_many()) >= 1
    with pytest.raises(DeadlineError):
        asyncio.run(answer(gang, ask(31, timeout_s=0.001)))
    with pytest.raises(PromptTooLongError):
        asyncio.run(answer(gang, ask(text="a dog " * 6000)))
    of_a_wrong_size = replace(ask(), clip=decoded_clip())
    with pytest.raises(ClipInputError):
        asyncio.run(answer(gang, of_a_wrong_size))
    assert gang.status().is_alive
    assert asyncio.run(answer(gang, ask(0)))[1].text


@pytest.mark.parametrize(
    ("rank", "number"),
    [(1, signal.SIGKILL), (0, signal.SIGKILL), (0, signal.SIGSTOP)],
    ids=["a follower dies", "rank 0 dies", "rank 0 hangs"],
)
def test_a_lost_rank_ends_the_service(driver, settings, rank, number):
    """In bounded time: those who wait are told, the others end, and their place is free again."""
    with started(settings) as service:

        async def lose() -> None:
            stream = service.generate(ask(41, max_tokens=LONG_TOKENS))
            await anext(stream)
            os.kill(service._gang._places[rank].pid, number)
            with pytest.raises(EngineGoneError):
                async for _ in stream:
                    pass

        asyncio.run(asyncio.wait_for(lose(), PATIENCE_S))
        wait_until(lambda: not service.status().is_alive, "found dead")
        with pytest.raises(EngineGoneError):
            asyncio.run(answer(service, ask(0)))
        own = {place.pid for place in service._gang._places}
        wait_until(lambda: not own & set(driver.processes(RANK)), "rid of its ranks")


def test_close_ends_ranks_and_gives_their_place_back(driver, settings, gang, caplog):
    """Also with a question in the middle, which is told; ranks return before they are killed."""
    gang.close()
    wait_until(lambda: nothing_left(driver), "empty")
    service = GangService(settings)

    async def close_in_the_middle() -> None:
        stream = service.generate(ask(51, max_tokens=LONG_TOKENS))
        await anext(stream)
        closing = asyncio.create_task(asyncio.to_thread(service.close))
        with pytest.raises(EngineGoneError):
            async for _ in stream:
                pass
        await closing

    asyncio.run(asyncio.wait_for(close_in_the_middle(), PATIENCE_S))
    assert not service.status().is_alive
    wait_until(lambda: nothing_left(driver), "empty")
    assert not [r for r in caplog.records if r.name == "actors.gang_service"]

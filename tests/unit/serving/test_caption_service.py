"""The live engine: answers equal the job's, tokens stream as they are committed, and a client that
leaves, is late or comes when all is full costs nobody else anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.config import EndpointConfig, RunConfig
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.models.base import Turn
from pipeline.models.scripted import Script, ScriptedVideoLM
from pipeline.records import FinishReason
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
from pipeline.stages.caption import CaptionStage
from tests.tiny_models import tiny_clip

SHORT = Script()
LONG = Script(min_length=200, max_length=200)
PACE_S = 0.002


class PacedVideoLM(ScriptedVideoLM):
    """A script whose every forward takes a while, so that requests overlap."""

    def open_session(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        session = super().open_session(*args, **kwargs)  # type: ignore[arg-type]
        forward = session.forward

        def paced(*call: object, **options: object) -> object:
            time.sleep(PACE_S)
            return forward(*call, **options)  # type: ignore[arg-type]

        session.forward = paced  # type: ignore[method-assign, assignment]
        return session


def config(**serving: object) -> EndpointConfig:
    return EndpointConfig.model_validate(
        {
            "models": {"target": {"name": "target"}, "draft": {"name": "draft"}},
            "generation": {"max_tokens": 256, "max_num_seqs": 4},
            "serving": serving,
        }
    )


@contextmanager
def service(
    script: Script = SHORT, settings: EndpointConfig | None = None, **kind: object
) -> Iterator[CaptionService]:
    model = PacedVideoLM if kind.get("paced") else ScriptedVideoLM
    draft = ScriptedVideoLM(
        Script(script.seed, script.vocab_size, script.min_length, script.max_length, 0.7)
    )
    running = CaptionService(settings or config(), model(script), draft)
    try:
        yield running
    finally:
        running.close()


def ask(
    seed: int = 0, text: str = "What?", timeout_s: float = 30.0, **options: object
) -> GenerationRequest:
    chosen = {"max_tokens": 256} | options
    return GenerationRequest(
        f"r{seed}", (Turn("user", text, has_video=True),), tiny_clip(seed=seed),
        GenerationOptions(**chosen), timeout_s,  # type: ignore[arg-type]
    )  # fmt: skip


async def answer(running: CaptionService, request: GenerationRequest) -> tuple[str, Finished]:
    """The text as it streamed, and the end."""
    text = ""
    async for event in running.generate(request):
        if isinstance(event, Finished):
            return text, event
        text += event.text
    raise AssertionError("the stream ended without an end")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


def test_answers_equal_the_jobs_captions_and_their_own_streams() -> None:
    clips = [tiny_clip(seed=n) for n in range(16)]
    settings = config()
    places = {"input": {"uri": "videos"}, "output": {"uri": "captions"}}
    shared = settings.model_dump(exclude={"serving"})
    job = CaptionStage(
        RunConfig.model_validate(shared | places),
        ScriptedVideoLM(SHORT),
        ScriptedVideoLM(Script(agreement=0.7)),
    )
    captions = {o.clip_id: o.caption for o in job(clips) if hasattr(o, "caption")}  # type: ignore[union-attr]

    async def run(running: CaptionService) -> list[tuple[str, Finished]]:
        text = settings.prompt.text
        return list(await asyncio.gather(*(answer(running, ask(n, text)) for n in range(16))))

    with service() as running:
        answers = asyncio.run(run(running))
    for clip, (streamed, end) in zip(clips, answers):
        caption = captions[clip.clip_id]
        assert streamed == end.text == caption.text
        assert end.finish_reason is caption.finish_reason
        assert end.stats.output_tokens == caption.stats.output_tokens
        assert end.stats.accepted_tokens > 0


def test_tokens_say_why_they_are_there_and_spell_the_text() -> None:
    async def run(running: CaptionService) -> tuple[list[Committed], Finished]:
        events = [event async for event in running.generate(ask())]
        return [e for e in events if isinstance(e, Committed)], events[-1]  # type: ignore[return-value]

    with service() as running:
        rounds, end = asyncio.run(run(running))
    tokens = [token for each in rounds for token in each.tokens]
    assert "".join(token.text for token in tokens) == end.text
    assert len(tokens) == end.stats.output_tokens
    assert {token.kind for token in tokens} == {"exact", "correction", "bonus"}
    assert len(rounds) == end.stats.target_steps + 1


def test_a_request_has_its_own_length_stop_and_sampling() -> None:
    async def run(running: CaptionService) -> tuple[str, list[tuple[str, Finished]]]:
        first, _ = await answer(running, ask())
        words = " ".join(first.split()[20:22])
        asked = [
            ask(), ask(max_tokens=3), ask(stop=("never", words)), ask(temperature=2.0, seed=1),
            ask(temperature=2.0, seed=1), ask(temperature=2.0, seed=2), ask(),
        ]  # fmt: skip
        return words, list(await asyncio.gather(*(answer(running, each) for each in asked)))

    with service(Script(min_length=40, max_length=40)) as running:
        words, answers = asyncio.run(run(running))
        whole, short, stopped, *sampled, again = answers
    assert whole[0] == again[0]
    assert short[1].finish_reason is FinishReason.LENGTH
    assert short[0].split() == whole[0].split()[:3]
    assert stopped[1].finish_reason is FinishReason.STOP
    assert stopped[0] == stopped[1].text == whole[0].partition(words)[0]
    assert sampled[0][0] == sampled[1][0]
    assert len({text for text, _ in [whole, *sampled]}) == 3


def test_a_client_that_leaves_frees_its_slot() -> None:
    async def run(running: CaptionService) -> str:
        streams = [running.generate(ask(n)) for n in range(4)]
        for stream in streams:
            await anext(stream)
        assert running.status().num_running == 4
        for stream in streams:
            await stream.aclose()
        await until(lambda: running.status().num_running == 0)
        return (await answer(running, ask(5, max_tokens=4)))[0]

    with service(LONG, paced=True) as running:
        assert len(asyncio.run(run(running)).split()) == 4


def test_one_too_many_is_told_when_to_come_again_and_the_others_go_on() -> None:
    async def run(running: CaptionService) -> tuple[list[object], float]:
        asked = [asyncio.create_task(answer(running, ask(n, max_tokens=40))) for n in range(6)]
        await until(lambda: running.status().num_running + running.status().num_waiting == 6)
        with pytest.raises(QueueFullError) as full:
            await answer(running, ask(9))
        return list(await asyncio.gather(*asked)), full.value.retry_after_s

    with service(LONG, config(max_waiting=2), paced=True) as running:
        answers, retry_after_s = asyncio.run(run(running))
    assert len(answers) == 6
    assert retry_after_s >= 1


def test_a_deadline_ends_a_request_and_frees_its_slot() -> None:
    async def run(running: CaptionService) -> None:
        with pytest.raises(DeadlineError, match=r"0\.1 s"):
            await answer(running, ask(timeout_s=0.1))
        await until(lambda: running.status().num_running == 0)
        await answer(running, ask(1, max_tokens=2))

    with service(LONG, paced=True) as running:
        asyncio.run(run(running))


def test_a_prompt_beyond_the_memory_is_refused_alone() -> None:
    settings = config()
    small = settings.generation.model_copy(update={"kv_cache_memory_bytes": 1100})
    clip = tiny_clip(num_frames=600)

    async def run(running: CaptionService) -> str:
        request = ask()
        too_long = GenerationRequest("long", request.turns, clip, request.options, 30.0)
        with pytest.raises(PromptTooLongError):
            await answer(running, too_long)
        return (await answer(running, request))[0]

    with service(settings=settings.model_copy(update={"generation": small})) as running:
        assert asyncio.run(run(running))


def test_longer_prompts_open_longer_sessions_and_change_no_answer() -> None:
    async def run(running: CaptionService) -> list[str]:
        request = ask()
        asked = []
        for frames in (4, 300, 8, 700, 4):
            clip = tiny_clip(num_frames=frames)
            each = GenerationRequest(f"{frames}", request.turns, clip, request.options, 30.0)
            asked.append(answer(running, each))
        return [text for text, _ in await asyncio.gather(*asked)]

    with service() as running:
        together = asyncio.run(run(running))
        alone = asyncio.run(run(running))
    assert together == alone
    assert together[0] == together[-1]


def test_text_alone_is_answered() -> None:
    turns = (Turn("system", "Be brief."), Turn("user", "Hello?"))
    request = GenerationRequest("t", turns, None, GenerationOptions(64), 30.0)
    with service() as running:
        assert asyncio.run(answer(running, request))[0]


class DyingVideoLM(ScriptedVideoLM):
    """A model whose device fails in the middle of an answer."""

    def open_session(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        session = super().open_session(*args, **kwargs)  # type: ignore[arg-type]

        def failing(*call: object, **options: object) -> object:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        session.forward = failing  # type: ignore[method-assign, assignment]
        return session


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_fails_everyone_who_waits_and_says_so() -> None:
    async def run(running: CaptionService) -> None:
        failed = await asyncio.gather(
            *(answer(running, ask(n)) for n in range(6)), return_exceptions=True
        )
        assert [type(each) for each in failed] == [EngineGoneError] * 6
        await until(lambda: not running.status().is_alive)
        with pytest.raises(EngineGoneError):
            await answer(running, ask())

    running = CaptionService(config(), DyingVideoLM(LONG), ScriptedVideoLM(LONG))
    asyncio.run(run(running))
    running.close()

"""Guards the caption stage: one outcome per clip, with the right clip, and honest seconds."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import (
    GenerationConfig,
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    PromptConfig,
    RunConfig,
    SpeculationConfig,
)
from pipeline.decoding.engine import CaptionEngine
from pipeline.failure_kinds import FailureKind
from pipeline.models.base import ClipInputError
from pipeline.models.scripted import Script, ScriptedVideoLM
from pipeline.records import CaptionerTiming, CaptionRecord, Failure, Stage
from pipeline.stages.caption import CaptionStage, IdentityError
from tests.make_records import clip_spec, decoded_clip

CLIPS = [decoded_clip(clip_spec(f"{n}.mp4"), num_frames=n, seed=n) for n in (1, 2, 3, 4)]


class PickyVideoLM(ScriptedVideoLM):
    """Takes no clip of three frames."""

    def prepare(self, clip, prompt):
        if len(clip.frames) == 3:
            raise ClipInputError("three frames are one too many")
        return super().prepare(clip, prompt)


class Clock:
    """Goes on by a given number of seconds between two looks."""

    def __init__(self, *steps_s):
        self.steps_s = [*steps_s, 0.0]
        self.now_s = 1000.0

    def __call__(self):
        now_s = self.now_s
        self.now_s += self.steps_s.pop(0)
        return now_s


def stage(
    target=None, clock=None, kv_cache_memory_bytes=None, token_sample_share=0.0, **speculation
):
    config = RunConfig(
        input=InputConfig(uri="/videos"),
        output=OutputConfig(uri="/captions", token_sample_share=token_sample_share),
        models=ModelsConfig(target=ModelConfig(name="t"), draft=ModelConfig(name="d")),
        prompt=PromptConfig(text="What happens?"),
        generation=GenerationConfig(max_tokens=20, kv_cache_memory_bytes=kv_cache_memory_bytes),
        speculation=SpeculationConfig(**speculation),
    )
    target = target or ScriptedVideoLM(Script())
    draft = ScriptedVideoLM(Script(agreement=0.6))
    return CaptionStage(config, target, draft, **({"clock": clock} if clock else {}))


def test_every_clip_has_one_record_with_its_own_caption():
    *records, timing = stage()(CLIPS)
    assert isinstance(timing, CaptionerTiming)
    assert [record.clip_id for record in records] == [clip.clip_id for clip in CLIPS]
    alone = [stage()([clip])[0] for clip in CLIPS]
    assert [r.caption.token_ids for r in records] == [r.caption.token_ids for r in alone]
    assert len({record.caption.text for record in records}) == len(CLIPS)
    for record, clip in zip(records, CLIPS):
        assert (record.spec, record.info) == (clip.spec, clip.info)
        assert record.frames_digest == clip.frames_digest
        assert record.frame_times_s == tuple(clip.timestamps_s)
        assert (record.video_decode_s, record.attempt) == (clip.decode_s, 1)


def test_a_clip_that_the_model_cannot_take_fails_alone():
    outcomes = stage(PickyVideoLM(Script()))(CLIPS)
    (failure,) = (outcome for outcome in outcomes if isinstance(outcome, Failure))
    assert (failure.code, failure.stage) == ("clip_input", Stage.CAPTION)
    assert (failure.clip_id, failure.video) == (CLIPS[2].clip_id, CLIPS[2].spec.video)
    assert failure.message == "three frames are one too many"
    captioned = {o.clip_id for o in outcomes if isinstance(o, CaptionRecord)}
    assert captioned == {CLIPS[index].clip_id for index in (0, 1, 3)}


def test_a_clip_that_does_not_fit_the_memory_fails_alone():
    """Slots of 256 tokens in both sessions at one byte a token; the long clip needs 768 each."""
    long_clip = decoded_clip(clip_spec("long.mp4"), num_frames=300, seed=9)
    outcomes = stage(kv_cache_memory_bytes=1000)([*CLIPS[:2], long_clip, *CLIPS[2:]])
    failure, *records, _ = outcomes
    assert (failure.code, failure.stage) == ("prompt_too_long", Stage.CAPTION)
    assert failure.clip_id == long_clip.clip_id
    assert "608 tokens and its caption need 1536 bytes" in failure.message
    assert "there are 1000" in failure.message
    assert "generation.kv_cache_memory_bytes" in failure.message
    assert [record.clip_id for record in records] == [clip.clip_id for clip in CLIPS]


def test_only_clips_that_the_model_cannot_take():
    failure, timing = stage(PickyVideoLM(Script()))([CLIPS[2]])
    assert isinstance(failure, Failure)
    assert isinstance(timing, CaptionerTiming)


@pytest.mark.parametrize("changed", ["frames", "timestamps_s"])
def test_frames_that_are_not_those_decoded_stop_the_run(changed):
    values = np.array(getattr(CLIPS[1], changed))
    values[-1] += 1
    swapped = replace(CLIPS[1], **{changed: values})
    with pytest.raises(IdentityError, match=r"s3://bucket/2\.mp4 clip 0: frames were decoded as"):
        stage()([CLIPS[0], swapped])


@pytest.fixture
def swapping(monkeypatch):
    """An engine that hands two clips each other's answers, as a mix-up of slots would."""

    def caption_stream(engine, requests):
        first, second, *rest = honest(engine, requests)
        swapped = replace(first, index=second.index), replace(second, index=first.index)
        yield from (*swapped, *rest)

    honest = CaptionEngine.caption_stream
    monkeypatch.setattr(CaptionEngine, "caption_stream", caption_stream)


@pytest.mark.usefixtures("swapping")
def test_captions_of_each_others_clips_stop_the_run():
    """The worst that batching can do, as nothing looks wrong: both clips are named."""
    with pytest.raises(IdentityError) as raised:
        stage()(CLIPS)
    named = [clip.clip_id in str(raised.value) for clip in CLIPS]
    assert named.count(True) == 2
    digests = [clip.frames_digest in str(raised.value) for clip in CLIPS]
    assert digests == named


@pytest.mark.usefixtures("swapping")
def test_captions_of_each_others_clips_are_found_where_they_are_compared_with_plain_ones():
    with pytest.raises(IdentityError):
        stage(plain_share=1.0)(CLIPS)


@pytest.mark.usefixtures("swapping")
def test_two_decodings_of_one_clip_are_told_apart_by_their_frames():
    """Not only the id: frames of one clip that were decoded twice, differently."""
    again = decoded_clip(CLIPS[0].spec, num_frames=1, seed=99)
    assert again.clip_id == CLIPS[0].clip_id
    with pytest.raises(IdentityError, match="is that for clip"):
        stage()([CLIPS[0], again])


class RaisingVideoLM(ScriptedVideoLM):
    """Has a bug that clips of some lengths find."""

    def __init__(self, *num_frames):
        super().__init__(Script())
        self.num_frames = num_frames

    def prepare(self, clip, prompt):
        if len(clip.frames) in self.num_frames:
            raise KeyError("no such grid")
        return super().prepare(clip, prompt)


def test_a_clip_that_finds_a_bug_in_its_preparation_fails_alone():
    """One such clip must not end each night that meets it."""
    failure, *records, _ = stage(RaisingVideoLM(1))(CLIPS)
    assert (failure.code, failure.kind) == ("prepare_failed", FailureKind.OURS)
    assert failure.clip_id == CLIPS[0].clip_id
    assert failure.message == "KeyError: 'no such grid'"
    assert [record.clip_id for record in records] == [clip.clip_id for clip in CLIPS[1:]]


def test_a_bug_that_every_clip_finds_stops_the_run():
    """A row for each would mark a corpus as failed for a line of code; and only at the start,
    where nothing says that the code works at all."""
    with pytest.raises(KeyError):
        stage(RaisingVideoLM(1, 2, 3))(CLIPS)
    later = stage(RaisingVideoLM(1, 2, 3))
    later([CLIPS[3]])
    assert [outcome.code for outcome in later(CLIPS[:3])[:3]] == ["prepare_failed"] * 3


def test_no_clips_are_no_call():
    assert stage()([]) == []


def test_time_is_waiting_or_work():
    """Loaded; 3 s later the first clips come and take 5 s; 2 s later the next ones take 7 s."""
    captioner = stage(clock=Clock(3.0, 5.0, 2.0, 7.0))
    assert captioner(CLIPS[:2])[-1] == CaptionerTiming(waited_s=3.0, busy_s=5.0)
    assert captioner([]) == []
    assert captioner(CLIPS[2:])[-1] == CaptionerTiming(waited_s=2.0, busy_s=7.0)


def test_a_plain_comparison_passes_through_and_is_no_work_of_the_captioner():
    """Else a run that compares looks as if its model never waited for frames."""
    *records, timing = stage(clock=Clock(3.0, 50.0), plain_share=1.0)(CLIPS)
    plain = [record.caption.plain for record in records]
    assert all(comparison.equal for comparison in plain)
    assert [p.output_tokens for p in plain] == [len(r.caption.token_ids) for r in records]
    compared_s = sum(comparison.prefill_s + comparison.decode_s for comparison in plain)
    assert compared_s > 0
    assert timing.waited_s == 3.0
    assert timing.busy_s == pytest.approx(50.0 - compared_s)


def test_without_comparison_there_is_none():
    *records, _ = stage()(CLIPS)
    assert [record.caption.plain for record in records] == [None] * len(CLIPS)


def test_a_token_sample_says_why_each_token_is_there():
    """With what each adds to the text, for people; other captions carry none of it."""
    for record in stage(token_sample_share=1.0)(CLIPS)[:-1]:
        caption = record.caption
        assert tuple(d.token_id for d in caption.decisions) == caption.token_ids
        assert "".join(d.text for d in caption.decisions) == caption.text
    assert all(record.caption.decisions == () for record in stage()(CLIPS)[:-1])

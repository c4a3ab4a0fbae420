"""Guards the engine: batches equal solo runs, and a share of clips is compared with plain."""

import weakref
from itertools import pairwise

import pytest

from pipeline.config import GenerationConfig, PromptConfig, SpeculationConfig
from pipeline.decoding.acceptance import exact_rule
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodingJob
from pipeline.decoding.session import NO_TAPS, SlotError
from pipeline.models.scripted import Script, ScriptedVideoLM, scripted_prompt
from pipeline.records import FinishReason
from tests.tiny_models import tiny_clip

CLIPS = [tiny_clip(frames, seed=frames) for frames in (1, 4, 2, 9, 3, 6)]


class CountingVideoLM(ScriptedVideoLM):
    """Keeps the sessions that were opened."""

    def __init__(self, script):
        super().__init__(script)
        self.sessions = []

    def open_session(self, num_slots, max_length, taps=NO_TAPS, prefixes=None):
        self.sessions.append(super().open_session(num_slots, max_length, taps))
        return self.sessions[-1]


def engine(agreement=0.7, max_tokens=30, draft=True, **speculation):
    target = CountingVideoLM(Script())
    return CaptionEngine(
        target,
        CountingVideoLM(Script(agreement=agreement)) if draft else None,
        GenerationConfig(max_tokens=max_tokens),
        SpeculationConfig(**speculation),
    ), target


def requests(clips=CLIPS):
    model = ScriptedVideoLM(Script())
    inputs = [model.prepare(clip, PromptConfig()) for clip in clips]
    return [CaptionRequest(clip.clip_id, i, i) for clip, i in zip(clips, inputs)]


def described(captions):
    return [(c.text, c.token_ids, c.finish_reason, c.stats.accepted_histogram) for c in captions]


@pytest.mark.parametrize("method", ["none", "exact"])
def test_a_batch_equals_solo_runs_in_any_order(method):
    together = described(engine(method=method)[0].caption(requests()))
    backwards = described(engine(method=method)[0].caption(requests(CLIPS[::-1])))
    one_by_one = engine(method=method)[0]
    alone = [described(one_by_one.caption([request]))[0] for request in requests()]
    assert together == alone
    assert backwards == alone[::-1]


def test_exact_says_what_plain_says():
    plain = engine(method="none", draft=False)[0].caption(requests())
    exact = engine(method="exact")[0].caption(requests())
    assert [c.text for c in exact] == [c.text for c in plain]
    assert [c.finish_reason for c in exact] == [FinishReason.STOP] * len(CLIPS)
    assert all(caption.text.startswith("w") for caption in exact)


def test_every_clip_is_compared_at_share_1():
    for caption in engine(plain_share=1.0)[0].caption(requests()):
        assert caption.plain.equal
        assert caption.plain.output_tokens == len(caption.token_ids)
        assert caption.plain.decode_s > 0
        assert caption.plain.prefill_s > 0


def test_a_share_is_chosen_by_clip_and_not_by_batch():
    chosen = [c.plain is not None for c in engine(plain_share=0.5)[0].caption(requests())]
    alone = [engine(plain_share=0.5)[0].caption([r])[0].plain is not None for r in requests()]
    assert chosen == alone
    assert 0 < sum(chosen) < len(chosen)
    captions = engine(plain_share=0.5)[0].caption(requests())
    assert described(captions) == described(engine()[0].caption(requests()))


def test_plain_decoding_has_nothing_to_be_compared_with():
    captions = engine(method="none", plain_share=1.0)[0].caption(requests())
    assert [caption.plain for caption in captions] == [None] * len(CLIPS)


def test_a_difference_is_reported():
    """The check must be able to fail: the two ways are given different prompts here."""
    captioner, _ = engine(plain_share=1.0)
    other = CaptionRequest("x", scripted_prompt([9, 9]), None)
    captioner._plain_jobs = lambda task: [DecodingJob(other, exact_rule)]
    (caption,) = captioner.caption(requests(CLIPS[:1]))
    assert not caption.plain.equal


def test_sessions_are_kept_and_grow_with_the_longest_request():
    captioner, target = engine(plain_share=0.5)
    for batch in (requests(CLIPS[:2]), requests(CLIPS[:1]), requests(CLIPS[2:4])):
        captioner.caption(batch)
    num_opened = len(target.sessions)
    captioner.caption(requests(CLIPS[:2]))
    assert len(target.sessions) == num_opened <= 2
    captioner.caption(requests([tiny_clip(300)]))
    assert len(target.sessions) == num_opened + 1
    assert target.sessions[-1].num_slots == max(s.num_slots for s in target.sessions)


class LastSessionVideoLM(ScriptedVideoLM):
    """Counts the sessions opened, and those alive at every opening; keeps none itself."""

    def __init__(self, script):
        super().__init__(script)
        self.alive = weakref.WeakSet()
        self.alive_at_opening = []

    def open_session(self, num_slots, max_length, taps=NO_TAPS, prefixes=None):
        self.alive_at_opening.append(len(self.alive))
        session = super().open_session(num_slots, max_length, taps)
        self.alive.add(session)
        return session


@pytest.mark.parametrize("plain_share", [0.0, 1.0])
def test_the_old_session_is_gone_before_a_larger_one_is_opened(plain_share):
    """Both at once would need twice the memory of the caches, which is most of a device's."""
    target, draft = LastSessionVideoLM(Script()), LastSessionVideoLM(Script(agreement=0.7))
    captioner = CaptionEngine(
        target, draft, GenerationConfig(max_tokens=9), SpeculationConfig(plain_share=plain_share)
    )
    for batch in ([tiny_clip(1)], CLIPS, [tiny_clip(150)], [tiny_clip(400)]):
        captioner.caption(requests(batch))
    for model in (target, draft):
        assert model.alive_at_opening == [0, 0, 0, 0]
        assert len(model.alive) == 1


def test_clips_that_get_longer_bit_by_bit_seldom_need_a_session():
    captioner, target = engine(max_tokens=3)
    for num_visual_tokens in range(200, 3000, 50):
        prompt = scripted_prompt([4, 5], num_visual_tokens)
        captioner.caption([CaptionRequest(str(num_visual_tokens), prompt, prompt)])
    lengths = [session.max_length for session in target.sessions]
    assert all(after >= 1.25 * before for before, after in pairwise(lengths))
    assert len(lengths) < 12


def test_a_session_that_does_not_fit_the_memory_leaves_a_usable_engine():
    captioner, target = engine(draft=False, method="none")
    captioner.caption(requests(CLIPS[:1]))
    open_session = target.open_session

    def out_of_memory(num_slots, max_length, taps=NO_TAPS, prefixes=None):
        raise MemoryError

    target.open_session = out_of_memory
    with pytest.raises(MemoryError):
        captioner.caption(requests([tiny_clip(300)]))
    target.open_session = open_session
    assert len(captioner.caption(requests(CLIPS[:1]))) == 1


def test_an_empty_batch():
    assert engine()[0].caption([]) == []


def test_the_engine_can_be_used_after_an_error():
    captioner, _ = engine()
    good = requests(CLIPS[:2])
    bad = CaptionRequest("bad", good[0].target, None)
    with pytest.raises(ValueError, match="clip bad has no draft inputs"):
        captioner.caption([good[0], bad])
    assert len(captioner.caption(good)) == 2


def test_speculation_needs_a_draft():
    with pytest.raises(ValueError, match=r"needs models\.draft"):
        engine(draft=False)


def test_slot_errors_are_not_hidden():
    captioner, target = engine()
    captioner.caption(requests(CLIPS[:1]))
    target.sessions[0].prefill(0, scripted_prompt([4]))
    with pytest.raises(SlotError, match="taken"):
        captioner.caption(requests(CLIPS[:1]))

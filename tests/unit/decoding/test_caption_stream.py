"""Guards the stream of captions: what is asked when, what is refused, which sessions are open."""

import pytest

from pipeline.config import GenerationConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.decoding.request import CaptionRequest
from pipeline.models.scripted import Script, ScriptedVideoLM, scripted_prompt
from pipeline.records import Caption
from pipeline.speculation_config import SpeculationConfig


class CountingVideoLM(ScriptedVideoLM):
    """Keeps the shapes of the sessions that were opened: slots and tokens."""

    def __init__(self, script):
        super().__init__(script)
        self.shapes = []

    def open_session(self, num_slots, max_length, *others, **named):
        self.shapes.append((num_slots, max_length))
        return super().open_session(num_slots, max_length, *others, **named)


def engine(max_num_seqs=2, memory=None, target=None, token_sample_share=0.0, **speculation):
    return CaptionEngine(
        target or ScriptedVideoLM(Script()),
        ScriptedVideoLM(Script(agreement=0.7)),
        GenerationConfig(max_tokens=16, max_num_seqs=max_num_seqs, kv_cache_memory_bytes=memory),
        SpeculationConfig.model_validate(speculation),
        token_sample_share,
    )


def requests(*prompt_lengths):
    made = []
    for n, length in enumerate(prompt_lengths):
        inputs = scripted_prompt([2 + n] * 5, length - 5)
        made.append(CaptionRequest(f"clip {n}", inputs, inputs))
    return made


def texts(answers):
    return {a.index: a.result.text for a in answers if isinstance(a.result, Caption)}


SHORT = (9, 12, 20, 7, 31, 6, 18)


@pytest.mark.parametrize(
    "speculation",
    [
        {"method": "none"},
        {"method": "exact"},
        {"drafting": {"drafter": "self", "keep_ratio": 0.3}},
        {"drafting": {"drafter": "ngram", "prompt_lookup_min": 1}},
        {"drafting": {"keep_ratio": 0.3, "pruning": "attention"}},
        {"drafting": {"confidence_threshold": 0.5}},
    ],
)
def test_every_drafter_gives_the_targets_captions(speculation):
    """Invariant 1 at the engine; the fake draft of a pruned prompt says other things."""
    expected = [engine(method="none").caption([request])[0].text for request in requests(*SHORT)]
    captioner = engine(**speculation)
    for _ in range(2):  # n-grams of the first pass draft the second
        captions = captioner.caption(requests(*SHORT))
        assert [caption.text for caption in captions] == expected
    if speculation.get("drafting", {}).get("drafter") == "ngram":
        assert sum(caption.stats.accepted_tokens for caption in captions) > 0


def test_requests_are_asked_for_as_slots_come_free():
    asked = []

    def watched():
        for request in requests(*SHORT):
            asked.append(request.clip_id)
            yield request

    answers = engine().caption_stream(watched())
    next(answers)
    assert len(asked) == 2
    rest = list(answers)
    assert len(asked) == len(SHORT) == len(rest) + 1


def test_a_clip_that_does_not_fit_is_an_answer_and_not_an_error():
    """1,200 bytes hold two rows of 256 + 256 tokens at a byte each; the long clip needs 1,536."""
    answers = list(engine(memory=1200).caption_stream(requests(9, 12, 600, 7)))
    assert sorted(a.index for a in answers) == [0, 1, 2, 3]
    (refused,) = [a for a in answers if isinstance(a.result, PromptTooLongError)]
    assert (refused.index, refused.clip_id, refused.result.prompt_tokens) == (2, "clip 2", 600)
    assert (refused.result.needed_bytes, refused.result.budget_bytes) == (1536, 1200)
    expected = texts(engine().caption_stream(requests(9, 12, 600, 7)))
    del expected[2]
    assert texts(answers) == expected


@pytest.mark.parametrize("lengths", [(600,), (9, 600), (600, 9), (600, 700)])
def test_refusals_wherever_they_come(lengths):
    answers = list(engine(memory=1200).caption_stream(requests(*lengths)))
    assert sorted(a.index for a in answers) == list(range(len(lengths)))
    captioner = engine(memory=1200)
    with pytest.raises(PromptTooLongError):
        captioner.caption(requests(*lengths))
    assert len(captioner.caption(requests(9))) == 1


def test_memory_bounds_the_rows_that_decode_together():
    target = CountingVideoLM(Script())
    engine(max_num_seqs=8, memory=1600, target=target).caption(requests(*SHORT))
    assert target.shapes == [(3, 256)]  # 512 bytes a row, in both sessions


def test_a_longer_prompt_that_comes_later_opens_longer_sessions():
    """The rows before it end first; the window of two is not what measured the slots."""
    target = CountingVideoLM(Script())
    lengths = (*SHORT, 700, *SHORT)
    answers = list(engine(target=target).caption_stream(iter(requests(*lengths))))
    assert target.shapes == [(2, 256), (2, 768)]
    assert texts(answers) == texts(engine(max_num_seqs=1).caption_stream(requests(*lengths)))


@pytest.mark.parametrize("plain_share", [0.4, 1.0])
def test_comparisons_are_made_in_bounded_batches(plain_share):
    """More clips than are ever set aside: all are answered once, each with its comparison."""
    clips = requests(*(5 + n % 17 for n in range(29)))
    captions = engine(plain_share=plain_share).caption(clips)
    assert len(captions) == 29
    compared = [caption.plain for caption in captions if caption.plain is not None]
    assert all(plain.equal for plain in compared)
    assert 0 < len(compared) <= 29
    assert (len(compared) == 29) == (plain_share == 1.0)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_shadows_decode_beside_loose_rows_only(method):
    speculation = {
        "method": method,
        "fidelity": {"shadow_share": 1.0, "min_facts_kept": 0.0},
        "anchors": {"score": "random", "relaxed_share": 0.5},
    }
    captions = engine(**speculation).caption(requests(*SHORT))
    plain = engine(method="none").caption(requests(*SHORT))
    if method == "exact":
        assert [caption.shadow for caption in captions] == [None] * len(SHORT)
        return
    for caption, exact in zip(captions, plain):
        assert caption.shadow.equal == (caption.token_ids == exact.token_ids)
        assert caption.shadow.output_tokens == len(exact.token_ids)
        assert caption.relaxed_share == 0.5
    assert not all(caption.shadow.equal for caption in captions)


def test_a_share_of_the_captions_says_why_each_token_is_there():
    captions = engine(token_sample_share=0.5).caption(requests(*SHORT))
    sampled = [caption for caption in captions if caption.decisions]
    assert 0 < len(sampled) < len(SHORT)
    for caption in sampled:
        assert tuple(d.token_id for d in caption.decisions) == caption.token_ids
        kinds = [d.kind for d in caption.decisions]
        assert kinds.count("correction") == caption.stats.correction_tokens
        assert kinds.count("bonus") == caption.stats.bonus_tokens
        assert kinds.count("exact") == caption.stats.accepted_tokens

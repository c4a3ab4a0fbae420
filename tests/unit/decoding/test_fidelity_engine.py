"""Guards the promise on facts through the engine: harmful loose decoding ends up exact."""

from collections import Counter

import pytest

from pipeline.config import GenerationConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.models.scripted import Script, ScriptedVideoLM, scripted_prompt
from pipeline.speculation_config import SpeculationConfig
from tests.calibration_files import write_calibration

VOCAB_SIZE = 32
NUM_CLIPS = 80
MIN_CLIPS = 5
LAX = {"score": "random", "relaxed_share": 0.8}


def requests(first=0):
    """With a video, as all is strict without one."""
    texts = [[5 + i % 20, 9, 3 + i % 7, 2 + i // 20] for i in range(NUM_CLIPS)]
    prompts = [scripted_prompt(text, num_visual_tokens=2) for text in texts]
    return [CaptionRequest(f"clip {first + i}", prompt, prompt) for i, prompt in enumerate(prompts)]


def every_token(token_ids, text):
    """A fact extractor: whatever differs is a fact."""
    assert text.count("w") == sum(token != 0 for token in token_ids)
    return Counter((str(token),) for token in token_ids)


def engine(agreement=0.5, facts=every_token, max_num_seqs=4, **speculation):
    fidelity = {"shadow_share": 1.0, "min_clips": MIN_CLIPS, **speculation.pop("fidelity", {})}
    settings = {"method": "paper", "anchors": LAX, "num_speculative_tokens": 4, **speculation}
    return CaptionEngine(
        ScriptedVideoLM(Script(seed=1, vocab_size=VOCAB_SIZE)),
        ScriptedVideoLM(Script(seed=1, vocab_size=VOCAB_SIZE, agreement=agreement)),
        GenerationConfig(max_tokens=20, max_num_seqs=max_num_seqs),
        SpeculationConfig.model_validate({**settings, "fidelity": fidelity}),
        facts=facts,
    )


PLAIN = engine(method="none").caption(requests())


@pytest.mark.parametrize("max_num_seqs", [1, 4])
@pytest.mark.parametrize("method", ["paper", "safe", "fly"])
def test_a_harmful_draft_is_taken_loosely_no_more(method, max_num_seqs):
    """Each rung costs some clips; then captions are the target's own, and the rows say so."""
    captioner = engine(method=method, max_num_seqs=max_num_seqs, safety={"floor_epsilon": 0.0},
                       fly={"entropy_threshold": 0.0, "window": 1})  # fmt: skip
    captions = captioner.caption(requests())
    rungs = 2 if method == "fly" else 5
    lambdas = [1.0 if c.relaxed_share is None else c.relaxed_share for c in captions]
    assert lambdas == sorted(lambdas, reverse=True)
    assert len(set(lambdas)) == rungs
    report = captioner.fidelity
    assert report.was_tightened
    assert [rung.is_exact for rung in report.rungs] == [False] * (rungs - 1) + [True]
    assert all(rung.num_clips >= MIN_CLIPS for rung in report.rungs[:-1])
    assert all(rung.facts_kept < 0.998 for rung in report.rungs[:-1])
    exact = [place for place, lambda_ in enumerate(lambdas) if lambda_ == 0]
    assert len(exact) >= 10
    for place in exact:
        assert captions[place].token_ids == PLAIN[place].token_ids
        assert captions[place].stats.relaxed_tokens == 0
        assert captions[place].shadow is None
    loose = [caption for caption in captions if caption.relaxed_share != 0]
    assert not all(caption.shadow.equal for caption in loose)
    assert sum(rung.num_clips for rung in report.rungs) == len(loose)


def test_it_stays_exact_in_later_calls():
    captioner = engine()
    captioner.caption(requests())
    later = captioner.caption(requests(first=NUM_CLIPS))
    assert [c.token_ids for c in later] == [c.token_ids for c in PLAIN]
    assert {c.relaxed_share for c in later} == {0.0}


def test_a_row_keeps_the_lambda_that_it_was_admitted_with():
    """Rows that run when the decision falls end as they began, and count for their own rung."""
    captions = engine(max_num_seqs=4).caption(requests())
    counts = Counter(caption.relaxed_share for caption in captions)
    assert counts[0.8] > MIN_CLIPS


def test_a_draft_that_agrees_is_left_alone():
    captioner = engine(agreement=1.0)
    captions = captioner.caption(requests())
    assert {c.relaxed_share for c in captions} == {0.8}
    (rung,) = captioner.fidelity.rungs
    assert (rung.num_clips, rung.facts_kept, rung.differing) == (NUM_CLIPS, 1.0, 0.0)


@pytest.mark.parametrize(("lexicon", "is_tightened"), [(0.1, False), (0.9, True)])
def test_the_calibrations_lexicon_tells_the_facts(tmp_path, lexicon, is_tightened):
    """Captions differ alike; only where the words that differ are visual are facts lost."""
    path = write_calibration(tmp_path / "pair.json", vocab_size=VOCAB_SIZE, lexicon=lexicon)
    captioner = engine(facts=None, calibration=path)
    captions = captioner.caption(requests())
    assert captioner.fidelity.was_tightened == is_tightened
    assert captioner.fidelity.rungs[0].differing > 0.5
    assert all(c.shadow is None or 0 <= c.shadow.facts_kept <= 1 for c in captions)


@pytest.mark.parametrize(("words_kept", "is_tightened"), [(1.0, True), (0.05, False)])
def test_the_promise_is_by_default_what_the_calibration_measured(
    tmp_path, words_kept, is_tightened
):
    """Another wording is another word: what the choice itself loses must not tighten it."""
    path = write_calibration(
        tmp_path / "pair.json", vocab_size=VOCAB_SIZE, lexicon=1.0, visual_words_kept=words_kept
    )
    captioner = engine(facts=None, calibration=path)
    captioner.caption(requests())
    assert captioner.fidelity.was_tightened == is_tightened
    assert captioner.fidelity.min_facts_kept == pytest.approx(max(0.0, words_kept - 0.01))


def test_only_chosen_clips_are_judged():
    captioner = engine(fidelity={"shadow_share": 0.3})
    captions = captioner.caption(requests())
    shadowed = sum(caption.shadow is not None for caption in captions)
    assert 0 < shadowed < NUM_CLIPS / 2
    assert sum(rung.num_clips for rung in captioner.fidelity.rungs) == shadowed


def test_no_promise_compares_only():
    captioner = engine(facts=None, fidelity={"min_facts_kept": 0.0})
    captions = captioner.caption(requests())
    assert {c.relaxed_share for c in captions} == {0.8}
    assert all(c.shadow.facts_kept is None for c in captions)
    assert not captioner.fidelity.was_tightened


def test_a_promise_needs_something_to_tell_facts_by():
    with pytest.raises(ValueError, match=r"min_facts_kept needs speculation\.calibration"):
        engine(facts=None)
    assert engine(facts=None, fidelity={"shadow_share": 0.0}).fidelity is not None


def test_exact_methods_have_no_budget():
    captioner = engine(facts=None, method="exact")
    captions = captioner.caption(requests())
    assert captioner.fidelity is None
    assert {(c.relaxed_share, c.shadow) for c in captions} == {(None, None)}

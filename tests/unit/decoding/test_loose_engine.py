"""Loose methods through the engine, on scripted models: what no rule may break."""

import pytest

from pipeline.config import GenerationConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.models.scripted import Script, ScriptedVideoLM, scripted_prompt
from pipeline.speculation_config import SpeculationConfig

MAX_TOKENS = 20
LOOSE = ("paper", "safe", "fly")
DRAFTS = (0.0, 0.6, 1.0)


def requests(num_clips=6):
    prompts = [
        scripted_prompt([5 + i, 9, 3 + i], num_visual_tokens=1 + i) for i in range(num_clips)
    ]
    return [CaptionRequest(f"clip {i}", prompt, prompt) for i, prompt in enumerate(prompts)]


def captions(agreement, clips=None, max_num_seqs=4, **speculation):
    engine = CaptionEngine(
        ScriptedVideoLM(Script(seed=1)),
        ScriptedVideoLM(Script(seed=1, agreement=agreement)),
        GenerationConfig(max_tokens=MAX_TOKENS, max_num_seqs=max_num_seqs),
        SpeculationConfig.model_validate({"num_speculative_tokens": 5, **speculation}),
    )
    return engine.caption(requests() if clips is None else clips)


PLAIN = captions(1.0, method="none")
STRICT = {"score": "random", "relaxed_share": 0.0, "shift_window": 0}
LAX = {"score": "random", "relaxed_share": 1.0}


@pytest.mark.parametrize("method", ["paper", "safe"])
@pytest.mark.parametrize("agreement", DRAFTS)
def test_lambda_0_without_shifts_says_what_plain_says(method, agreement):
    ours = captions(agreement, method=method, anchors=STRICT)
    assert [c.token_ids for c in ours] == [c.token_ids for c in PLAIN]


@pytest.mark.parametrize("method", LOOSE)
def test_a_draft_that_agrees_changes_nothing(method):
    for ours, plain in zip(captions(1.0, method=method), PLAIN):
        assert ours.token_ids == plain.token_ids
        assert ours.stats.relaxed_tokens == ours.stats.shifted_tokens == 0
        assert not ours.stats.rejected_by_cause


@pytest.mark.parametrize("method", LOOSE)
@pytest.mark.parametrize("agreement", DRAFTS)
def test_every_token_is_counted_once(method, agreement):
    for caption in captions(agreement, method=method, anchors=LAX):
        stats = caption.stats
        assert len(caption.token_ids) == stats.output_tokens <= MAX_TOKENS
        kept = stats.accepted_tokens
        assert kept + stats.correction_tokens + stats.bonus_tokens == stats.output_tokens
        assert stats.relaxed_tokens + stats.shifted_tokens <= kept <= stats.drafted_tokens
        assert sum(stats.accepted_histogram) == stats.target_steps


def test_everything_loose_lets_the_draft_speak_and_ends():
    for caption in captions(0.0, method="paper", anchors=LAX):
        assert caption.stats.relaxed_tokens == caption.stats.accepted_tokens > 0
        assert caption.relaxed_share == 1.0
        assert not caption.stats.rejected_by_cause


def test_safe_mode_leaves_the_end_to_the_target():
    """The guard of the end of sequence: no draft decides how long a caption is."""
    for ours, plain in zip(captions(0.0, method="safe", anchors=LAX, safety=NO_FLOOR), PLAIN):
        assert len(ours.token_ids) == len(plain.token_ids)


NO_FLOOR = {"floor_epsilon": 0.0}
COMPARED = {"shadow_share": 1.0, "min_facts_kept": 0.0}


@pytest.mark.parametrize("method", LOOSE)
@pytest.mark.parametrize("score", ["cosine", "random", "entropy", "attention"])
@pytest.mark.parametrize("scope", ["block", "running"])
def test_a_batch_equals_solo_runs(method, score, scope):
    anchors = {"score": score, "quantile_scope": scope}
    together = captions(0.6, method=method, anchors=anchors, safety=NO_FLOOR)
    for request, caption in zip(requests(), together):
        (alone,) = captions(
            0.6, [request], method=method, anchors=anchors, safety=NO_FLOOR, max_num_seqs=1
        )
        assert alone.token_ids == caption.token_ids
        assert alone.stats.accepted_histogram == caption.stats.accepted_histogram


def test_shadows_tell_what_changed():
    loose = captions(0.0, method="paper", anchors=LAX, fidelity=COMPARED)
    for caption, plain in zip(loose, PLAIN):
        assert caption.shadow.equal == (caption.token_ids == plain.token_ids)
        assert caption.shadow.output_tokens == len(plain.token_ids)
    assert not all(caption.shadow.equal for caption in loose)


def test_a_score_that_needs_a_calibration_says_so():
    with pytest.raises(ValueError, match=r"jobs/calibrate\.py"):
        captions(1.0, method="safe", anchors={"score": "lexicon"})
    with pytest.raises(ValueError, match=r"jobs/calibrate\.py"):
        captions(1.0, method="safe", anchors={"quantile_scope": "calibrated"})

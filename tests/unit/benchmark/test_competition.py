"""Guards the whole benchmark at a tiny scale: every method on a tiny random pair of real classes,
and lossless ones on scripted models, where what they must say is known."""

import pytest

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.competition import Competition, best_ks
from pipeline.benchmark.figures import figures_of
from pipeline.benchmark.methods import (
    ASSISTED,
    EXACT,
    GENERATE,
    PLAIN,
    Calibrated,
    Method,
    Runner,
    main_methods,
)
from pipeline.benchmark.sweeps import exactness_methods
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.decoding.request import CaptionRequest
from pipeline.models.scripted import Script, ScriptedVideoLM
from pipeline.sample_world.facts import Fact
from tests.benchmark_runs import SETTING
from tests.make_records import clip_spec, decoded_clip

TRUTH = frozenset([Fact("scene", "tone", "dark")])
PROMPT = PromptConfig(text="what happens ?")


def competition(target, draft, max_tokens=30):
    generation = GenerationConfig(max_tokens=max_tokens)
    return Competition(target, draft, generation, PROMPT, SETTING, lambda line: None)


def benchmark_clips(target, draft, clips):
    return [
        BenchmarkClip(
            CaptionRequest(c.clip_id, target.prepare(c, PROMPT), draft.prepare(c, PROMPT)), c, TRUTH
        )
        for c in clips
    ]


def scripted(agreement=0.7, num_clips=7):
    target, draft = ScriptedVideoLM(Script()), ScriptedVideoLM(Script(agreement=agreement))
    clips = [decoded_clip(clip_spec(f"{n}.mp4"), seed=n) for n in range(num_clips)]
    return competition(target, draft), benchmark_clips(target, draft, clips)


@pytest.mark.parametrize("batch", [1, 2])
def test_lossless_methods_say_what_plain_decoding_says(batch):
    contest, clips = scripted()
    part = contest.run("exactness", exactness_methods(3), clips, clips[:batch], batch, {})
    figures = {f.method: f for f in figures_of(part)}
    assert {GENERATE, ASSISTED}.isdisjoint(figures), "scripts are no models of transformers"
    for f in figures.values():
        assert (f.num_clips, f.same_text, f.disagreement) == (len(clips), 1.0, 0.0), f.method
    assert figures[EXACT].mean_accepted_length > 1


def test_the_draft_alone_says_what_the_draft_says():
    contest, clips = scripted(agreement=0.0)
    methods = [Method(PLAIN, ""), Method("draft alone", "", runner=Runner.DRAFT_ALONE)]
    ours, alone = figures_of(contest.run("main", methods, clips, clips[:2], 2, {}))
    assert (ours.same_text, alone.same_text) == (1.0, 0.0)


def test_the_seconds_of_a_call_add_up():
    contest, clips = scripted()
    part = contest.run("main", main_methods(Calibrated())[:2], clips, clips[:2], 2, {EXACT: 3})
    for method in part.methods:
        for run in method.runs:
            assert run.wall_s >= run.prefill_s + run.decode_s > 0
    assert [m.num_speculative_tokens for m in part.methods] == [None, 3]


def test_tuning_finds_a_k_for_each_method_that_has_one():
    contest, clips = scripted(num_clips=2)
    methods = [m for m in main_methods(Calibrated()) if m.name in (PLAIN, EXACT, "paper")]
    tuned = contest.tune(methods, clips, clips[:1], 1, {EXACT: 2})
    assert set(tuned) == {EXACT}
    assert {1, 2, 3} <= set(tuned[EXACT])
    assert best_ks(tuned)[EXACT] in tuned[EXACT]


def test_a_part_without_plain_decoding_is_refused():
    contest, clips = scripted(num_clips=1)
    with pytest.raises(ValueError, match="autoregressive"):
        loose = [m for m in main_methods(Calibrated()) if m.name != PLAIN]
        contest.run("main", loose, clips, clips, 1, {})

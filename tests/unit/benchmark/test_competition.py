"""Guards the whole benchmark at a tiny scale: every method on a tiny random pair of real classes,
and lossless ones on scripted models, where what they must say is known."""

import pytest
import torch

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
from pipeline.benchmark.report import Measured, Report
from pipeline.benchmark.runs import load_all, save
from pipeline.benchmark.sweeps import ablation_methods, exactness_methods, frontier_methods
from pipeline.benchmark.tuning import CANDIDATES
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.decoding.request import CaptionRequest
from pipeline.models.loading import load_model
from pipeline.models.scripted import Script, ScriptedVideoLM
from pipeline.sample_world.facts import Fact
from pipeline.speculation_config import AnchorScoreKind, PruningPolicy
from tests.benchmark_runs import SETTING
from tests.make_records import clip_spec, decoded_clip
from tests.tiny_models import tiny_clip, write_tiny_pair

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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folders = write_tiny_pair("qwen2_5_vl", tmp_path_factory.mktemp("pair"))
    target, draft = (
        load_model(ModelConfig(name=str(f), dtype="float32"), torch.device("cpu")) for f in folders
    )
    clips = [tiny_clip(num_frames=4, seed=n) for n in range(2)]
    return competition(target, draft, max_tokens=8), benchmark_clips(target, draft, clips)


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
    assert {2, 5, 10} <= set(tuned[EXACT])
    # Where the best one lies is the clock's to say; that its neighbours are slower was looked at.
    place = CANDIDATES.index(best_ks(tuned)[EXACT])
    assert set(CANDIDATES[max(0, place - 1) : place + 2]) <= set(tuned[EXACT])


def test_a_part_without_plain_decoding_is_refused():
    contest, clips = scripted(num_clips=1)
    others = [m for m in main_methods(Calibrated()) if m.name != PLAIN]
    with pytest.raises(ValueError, match="autoregressive"):
        contest.run("main", others, clips, clips, 1, {})


def without_attention(methods):
    """Sessions of transformers models have no attention tap yet."""
    by_attention = (AnchorScoreKind.ATTENTION, AnchorScoreKind.LEXICON_ATTENTION)
    return [
        m
        for m in methods
        if m.speculation.drafting.pruning is not PruningPolicy.ATTENTION
        and m.speculation.anchors.score not in by_attention
    ]


def test_the_whole_main_table_on_a_tiny_pair(tiny, tmp_path):
    """Every method runs or says why not; peers give plain decoding's own captions."""
    contest, clips = tiny
    methods = without_attention(main_methods(Calibrated()))
    part = contest.run("main", methods, clips, clips, 1, {})
    save(tmp_path, part)
    (loaded,) = load_all(tmp_path)
    assert loaded == part
    figures = {f.method: f for f in figures_of(part)}
    assert figures[GENERATE].same_text == 1.0
    assert figures[EXACT].same_text == 1.0
    # The tiny pair pads its embeddings differently, which transformers' assistant does not take.
    refused = {m.method: m.refused for m in part.methods if m.refused}
    assert set(refused) == {ASSISTED}
    assert set(figures) | set(refused) == {m.name for m in methods}
    report = Report([Measured(part, list(figures.values()))], {}, methods, {}, "")
    assert refused[ASSISTED] in report.markdown("2026-11-23")


def test_ablations_and_frontier_on_a_tiny_pair(tiny):
    """Without a calibration the scores and the scope that need one say so, and only those."""
    contest, clips = tiny
    methods = without_attention(ablation_methods(Calibrated(), 4))
    part = contest.run("ablations", methods, clips[:1], clips[1:], 1, {})
    refused = {m.method: m.refused for m in part.methods if m.refused}
    assert set(refused) == {
        "scope calibrated", "score lexicon", "score lexicon_cosine", "score lexicon_margin"
    }  # fmt: skip
    assert all("calibration" in why for why in refused.values())
    part = contest.run("frontier", frontier_methods(Calibrated(), 4), clips[:1], clips[1:], 1, {})
    assert not [m.method for m in part.methods if m.refused]

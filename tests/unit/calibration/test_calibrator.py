"""Guards a whole calibration on scripted models: what is chosen keeps its promise and loads."""

import numpy as np
import pytest

from pipeline.calibration.calibrator import VISUAL_WORDS, Goal, calibrate
from pipeline.calibration.candidates import Candidate, CaptionTokens, Scores, candidate_layers
from pipeline.calibration.evaluation import Point
from pipeline.calibration.evidence import Pair
from pipeline.calibration.mismatches import Mismatch
from pipeline.calibration.reading import TargetCaption
from pipeline.calibration.report import Provenance, markdown
from pipeline.calibration.score import cheapest_of_the_best
from pipeline.config import GenerationConfig
from pipeline.decoding.calibration import load_calibration
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.models.scripted import Script, ScriptedVideoLM, scripted_prompt
from pipeline.speculation_config import (
    AnchorScoreKind,
    AnchorState,
    DraftingConfig,
    SpeculationConfig,
)

GENERATION = GenerationConfig(max_tokens=24, max_num_seqs=4)


class FewLayers(ScriptedVideoLM):
    """Scripted models have as many layers as anyone wants; each one costs time here."""

    num_layers = 2


def pair(agreement=0.6):
    return Pair(
        FewLayers(Script(seed=3, min_length=20)),
        FewLayers(Script(seed=3, min_length=20, agreement=agreement)),
        "prompt",
        GENERATION,
        DraftingConfig(),
    )


def requests(first, count):
    prompts = [
        scripted_prompt([5 + i % 20, 9, 3 + i // 20], 2) for i in range(first, first + count)
    ]
    return [CaptionRequest(f"clip {first + i}", p, p) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def outcome():
    return calibrate(
        pair(), Goal(0.9, in_sample_world=False), requests(0, 10), requests(50, 8), lambda _: None
    )


def test_the_choice_keeps_its_promise_where_it_was_made(outcome):
    setting = outcome.chosen.setting
    (tried,) = [trial for trial in outcome.tried if trial.setting == setting]
    kept = [trial for trial in outcome.tried if trial.kept[VISUAL_WORDS].value >= 0.9]
    assert kept == [] or tried in kept
    assert tried.speed_up == max(trial.speed_up for trial in kept or [tried])


def test_the_exact_chain_beside_it_is_exact(outcome):
    assert outcome.exact.same_text == 1
    assert outcome.exact.kept[VISUAL_WORDS].value == 1
    chosen_k = outcome.chosen.setting.num_speculative_tokens
    assert outcome.exact.setting.num_speculative_tokens == chosen_k


def test_the_file_is_of_this_pair_and_decodes(outcome, tmp_path):
    """By the file alone captions come out as in the trial on the report split."""
    path = tmp_path / "pair.json"
    outcome.save(path)
    calibration, lexicon = load_calibration(path)
    assert calibration == outcome.calibration
    assert calibration.pair.target_revision == pair().target.revision
    assert 0 <= lexicon.min() <= lexicon.max() <= 1
    speculation = SpeculationConfig(method=calibration.method, calibration=str(path))
    engine = CaptionEngine(pair().target, pair().draft, GENERATION, speculation)
    captions = engine.caption(requests(50, 8))
    steps = sum(caption.stats.target_steps for caption in captions)
    accepted = sum(caption.stats.accepted_tokens for caption in captions)
    assert accepted / steps == pytest.approx(outcome.chosen.mean_accepted_length)
    assert calibration.visual_words_kept == outcome.chosen.kept[VISUAL_WORDS].value


def test_the_report_names_the_choice_and_every_score(outcome):
    provenance = Provenance("2026-01-01", "abc", "a machine", "calibrate", "models", "videos")
    text = markdown(outcome, provenance)
    assert f"**{outcome.chosen.setting}**" in text
    for row in outcome.rows:
        assert f"| {row.name} |" in text
    assert "nan" not in text
    by_layer = text.partition("## By layer")[2].partition("## Settings")[0]
    assert [line[:4] for line in by_layer.splitlines() if line.startswith("| ")][2:] == [
        "| 0 ",
        "| 1 ",
    ]


def test_too_few_clips_are_an_error():
    with pytest.raises(ValueError, match="too few"):
        calibrate(pair(), Goal(0.9, False), requests(0, 3), requests(50, 3), lambda _: None)


def test_a_score_of_logits_is_taken_if_it_is_nearly_the_best():
    best = Candidate(AnchorScoreKind.ATTENTION, 3, AnchorState.TOKEN)
    margin = Candidate(AnchorScoreKind.LEXICON_MARGIN)

    def choice(auc):
        return cheapest_of_the_best([Point(best, 0.98, None), Point(margin, auc, None)])

    assert choice(0.976) == margin
    assert choice(0.974) == best


def test_scores_of_a_draft_stand_where_its_mismatches_are():
    request = requests(0, 1)[0]
    captions = [TargetCaption(request, (4, 5, 6)), TargetCaption(request, (7, 8, 0))]
    tokens = CaptionTokens(captions, [Mismatch(0, 2, 9, 6), Mismatch(1, 1, 3, 8)])
    scores = Scores(np.array([1.0, 2.0, 3.0, 4.0]), np.array([20.0, 30.0]))
    assert tokens.as_drafted(scores).tolist() == [1.0, 20.0, 30.0, 4.0]
    assert tokens.clips.tolist() == [0, 0, 1, 1]
    assert tokens.mismatch_clips.tolist() == [0, 1]


@pytest.mark.parametrize(("num_layers", "count"), [(1, 1), (8, 8), (9, 8), (64, 8)])
def test_layers_are_spread_from_the_first_to_the_last(num_layers, count):
    layers = candidate_layers(num_layers)
    assert len(layers) == len(set(layers)) == count
    assert (layers[0], layers[-1]) == (0, num_layers - 1)


def test_a_draft_that_always_agrees_is_calibrated_too():
    outcome = calibrate(
        pair(agreement=1.0), Goal(0.9, False), requests(0, 6), requests(50, 4), lambda _: None
    )
    assert outcome.chosen.same_text == 1
    assert outcome.chosen.mean_accepted_length == outcome.exact.mean_accepted_length

"""Guards that each method is what its name says, and that settings of one do not leak to others."""

from pipeline.benchmark.competition import chooses_itself, chosen_k
from pipeline.benchmark.methods import LVSPEC, PLAIN, RANDOM, Calibrated, Method, main_methods
from pipeline.benchmark.sweeps import (
    BLOCK_LENGTHS,
    NEVER_STOPS,
    ablation_methods,
    exactness_methods,
    frontier_methods,
    length_methods,
)
from pipeline.speculation_config import AnchorScoreKind, QuantileScope, SpeculationMethod

CALIBRATED = Calibrated("pair.json", SpeculationMethod.SAFE, QuantileScope.CALIBRATED)


def by_name(methods):
    assert len({m.name for m in methods}) == len(methods)
    return {m.name: m for m in methods}


def test_the_paper_is_the_published_rule_and_nothing_of_the_calibration():
    paper = by_name(main_methods(CALIBRATED))["paper"]
    settings = paper.at(chosen_k(paper, {}))
    assert settings.method is SpeculationMethod.PAPER
    assert settings.calibration is None
    assert settings.num_speculative_tokens == 10
    assert settings.drafting.keep_ratio == 0.1
    anchors = settings.anchors
    assert (anchors.score, anchors.top_n, anchors.shift_window) == (AnchorScoreKind.COSINE, 10, 3)
    assert (anchors.relaxed_share, anchors.quantile_scope) == (0.7, QuantileScope.BLOCK)


def test_random_relaxation_is_lvspec_but_for_its_score():
    methods = by_name(main_methods(CALIBRATED))
    ours, chance = methods[LVSPEC].speculation, methods[RANDOM].speculation
    assert chance.anchors.score is AnchorScoreKind.RANDOM
    # The calibrated quantiles are of another score.
    assert chance.anchors.quantile_scope is QuantileScope.RUNNING
    same = {"score": None, "quantile_scope": None}
    assert chance.model_copy(update={"anchors": chance.anchors.model_copy(update=same)}) == ours


def test_ks_are_tuned_fixed_or_borrowed():
    tuned = {"m": 7, "other": 3}
    assert chosen_k(Method("m", "", start_k=5), tuned) == 7
    assert chosen_k(Method("n", "", start_k=5), tuned) == 5
    assert chosen_k(Method("m", "", fixed_k=10), tuned) == 10
    assert chosen_k(Method("m", "", same_k_as="other"), tuned) == 3
    assert chosen_k(Method("m", ""), tuned) is None
    assert chooses_itself(Method("m", ""))
    assert not chooses_itself(Method("m", "", fixed_k=10))


def test_what_must_be_exact_has_no_loose_method():
    for method in exactness_methods(4):
        assert not method.speculation.method.is_loose
        assert method.every == 1


def test_every_part_has_plain_decoding_and_names_of_its_own():
    for methods in (
        main_methods(CALIBRATED),
        exactness_methods(4),
        ablation_methods(CALIBRATED, 8),
        frontier_methods(CALIBRATED, 8),
        length_methods(CALIBRATED),
    ):
        assert PLAIN in by_name(methods)


def test_a_sweep_over_k_compares_at_the_same_k():
    methods = by_name(length_methods(CALIBRATED))
    for family in ("exact", LVSPEC, NEVER_STOPS):
        assert [methods[f"{family} @ {k}"].fixed_k for k in BLOCK_LENGTHS] == list(BLOCK_LENGTHS)
    assert methods[f"{NEVER_STOPS} @ 20"].speculation.drafting.confidence_threshold == 0
    assert methods[f"{LVSPEC} @ 20"].speculation.drafting.confidence_threshold is None


def test_an_ablation_changes_one_thing():
    methods = by_name(ablation_methods(CALIBRATED, 8))
    ours = methods[LVSPEC].speculation
    assert methods["no PST"].speculation.anchors.shift_window == 0
    assert not methods["no guards"].speculation.safety.guards
    for name in ("no PST", "no guards", "draft sees 25%"):
        changed = methods[name].speculation.model_dump()
        differing = [key for key, value in ours.model_dump().items() if changed[key] != value]
        assert len(differing) == 1, name

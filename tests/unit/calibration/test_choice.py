"""Guards how settings are chosen: by what was tried, within the budget, each setting once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calibration.choice import (
    NUM_QUANTILES,
    Search,
    best_length,
    choose,
    ladder,
    score_quantiles,
    with_anchors,
)
from pipeline.calibration.trials import Setting, Trial
from pipeline.decoding.calibration import AnchorSettings
from pipeline.speculation_config import (
    AnchorScoreKind,
    AnchorState,
    QuantileScope,
    SpeculationMethod,
)
from pipeline.statistics import Estimate

START = Setting(
    SpeculationMethod.SAFE,
    16,
    AnchorSettings(
        score=AnchorScoreKind.LEXICON,
        layer=2,
        state=AnchorState.PREDICTING,
        top_n=10,
        quantile_scope=QuantileScope.CALIBRATED,
        relaxed_share=0.5,
        shift_window=3,
    ),
)
LAMBDAS = [0.1, 0.3, 0.5, 0.7, 0.9]


def trial(setting, kept, tokens_per_step, histogram=(1,) * 17):
    speed_up = tokens_per_step / (0.05 * setting.num_speculative_tokens + 1.2)
    estimate = Estimate(kept, kept, kept, 1)
    return Trial(
        setting, {"facts": estimate}, tokens_per_step - 1, tokens_per_step, histogram, speed_up, 0.5
    )


class World:
    """What settings lead to: faster and worse with lambda; counts how often each is asked."""

    def __init__(self, best_lambda=0.5, paper_gains=0.0, window_costs=0.0):
        self.best_lambda = best_lambda
        self.paper_gains = paper_gains
        self.window_costs = window_costs
        self.asked = []

    def run(self, setting):
        self.asked.append(setting)
        anchors = setting.anchors
        is_paper = setting.method is SpeculationMethod.PAPER
        kept = 1.0 if anchors.relaxed_share <= self.best_lambda else 0.9
        kept -= self.window_costs if anchors.shift_window else 0.0
        speed = 2 + 6 * anchors.relaxed_share + (self.paper_gains if is_paper else 0.0)
        return trial(setting, kept, speed + 0.1 * (anchors.shift_window > 0))


def search(world, min_facts_kept=0.99):
    return Search(world.run, "facts", min_facts_kept, lambda line: None)


@pytest.mark.parametrize("best_lambda", LAMBDAS)
def test_the_highest_lambda_within_the_budget_is_found(best_lambda):
    world = World(best_lambda)
    found = search(world).climb(START, LAMBDAS)
    assert found.setting.anchors.relaxed_share == best_lambda
    assert len(world.asked) <= 3 == len(LAMBDAS).bit_length()


def test_where_none_is_within_it_the_lowest_lambda_is_taken():
    assert search(World(0.0)).climb(START, LAMBDAS).setting.anchors.relaxed_share == LAMBDAS[0]


def test_nothing_is_decoded_twice():
    world = World()
    choose(search(world), START, LAMBDAS, lambda tokens, k: tokens / (0.05 * k + 1.2))
    assert len(world.asked) == len(set(world.asked))


def test_the_choice_is_the_fastest_that_keeps_enough():
    """Paper is much faster here and as good; the window costs facts, so it is left out."""
    world = World(paper_gains=1.0, window_costs=0.05)
    looked = search(world)
    chosen = choose(looked, START, LAMBDAS, lambda tokens, k: tokens / (0.05 * k + 1.2))
    good = [t for t in looked.tried if t.kept["facts"].value >= 0.99]
    assert chosen in good
    assert chosen.speed_up == max(t.speed_up for t in good)
    assert chosen.setting.method is SpeculationMethod.PAPER
    assert chosen.setting.anchors.shift_window == 0


def test_guards_stay_where_they_cost_little():
    looked = search(World(paper_gains=0.05))
    chosen = choose(looked, START, LAMBDAS, lambda tokens, k: tokens / (0.05 * k + 1.2))
    assert chosen.setting.method is SpeculationMethod.SAFE
    paper = [t for t in looked.tried if t.setting.method is SpeculationMethod.PAPER]
    assert max(t.speed_up for t in paper) > chosen.speed_up


def test_if_nothing_keeps_enough_the_choice_keeps_most():
    looked = search(World(best_lambda=0.0), min_facts_kept=1.0)
    chosen = choose(looked, START, LAMBDAS, lambda tokens, k: tokens / (0.05 * k + 1.2))
    assert chosen.kept["facts"].value == max(t.kept["facts"].value for t in looked.tried)


def test_a_longer_block_is_chosen_only_if_its_tokens_are_kept():
    def speed_up(tokens, k):
        return tokens / (0.1 * k + 1)

    never_beyond_two = (0, 0, 100, 0, 0, 0, 0)
    all_kept = (0, 0, 0, 0, 0, 0, 100)
    assert best_length(never_beyond_two, speed_up) == 2
    assert best_length(all_kept, speed_up) == 6


@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=60),
    st.lists(st.floats(-20, 20), min_size=1, max_size=30),
)
def test_each_rung_stops_its_share_of_the_harmful(drafted, harmful):
    """By scope calibrated: a filler has a rank, among the quantiles, of at most lambda."""
    quantiles = score_quantiles([*drafted, *harmful])
    assert len(quantiles) == NUM_QUANTILES
    assert list(quantiles) == sorted(quantiles)
    lambdas = ladder(quantiles, harmful)
    assert lambdas == sorted(set(lambdas))
    ranks = np.searchsorted(quantiles, harmful, side="right") / len(quantiles)
    assert (ranks > lambdas[0]).all()
    assert (ranks > lambdas[-1]).mean() >= 0.9


def test_without_harmful_mismatches_everything_may_be_a_filler():
    assert ladder((0.0, 1.0), []) == [1.0]


def test_other_anchors_leave_the_rest():
    changed = with_anchors(START, relaxed_share=0.2)
    assert changed.anchors.relaxed_share == 0.2
    assert changed.anchors.score is START.anchors.score
    assert START.anchors.relaxed_share == 0.5

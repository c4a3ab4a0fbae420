"""Guards the adaptive draft length: near the best K on machines that it does not know, never much
slower than plain decoding, and not misled by odd rounds. No clock is read: costs are made up."""

from dataclasses import replace
from statistics import mode

import pytest

from pipeline.decoding.draft_length import AdaptiveLength
from pipeline.decoding.length_policy import RoundObservation
from tests.simulated_rounds import Machine, simulate

MAX_TOKENS = 10
ROWS = (1, 4, 16)
GRID = [
    Machine(draft_cost, token_cost, acceptance)
    for draft_cost in (0.05, 0.3)
    for token_cost in (0.0, 0.05, 0.3)
    for acceptance in (0.0, 0.5, 0.7, 0.95)
]
NOISE = {"quiet": {}, "noisy": {"noise": 0.1, "outliers": 0.01}}


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("rows", ROWS)
def test_the_throughput_is_near_that_of_the_best_length(rows, noise):
    """The oracle knows the machine and keeps its best K; the start and all trials count here."""
    for machine in GRID:
        noisy = replace(machine, **NOISE[noise])
        run = simulate(AdaptiveLength(MAX_TOKENS), noisy, rows, 2000)
        assert run.rate >= 0.94 * machine.best(rows, MAX_TOKENS), noisy


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("rows", ROWS)
def test_where_no_length_pays_it_decodes_plainly(rows, noise):
    """The promise: at least 97 % of plain decoding, once the start is a small part of the run."""
    for machine in GRID:
        if machine.best(rows, MAX_TOKENS) > machine.rate(rows, 0):
            continue
        run = simulate(AdaptiveLength(MAX_TOKENS), replace(machine, **NOISE[noise]), rows, 4000)
        assert run.rate >= 0.97 * machine.rate(rows, 0), machine
        if machine.rate(rows, 1) < 0.9 * machine.rate(rows, 0):  # else trials cost next to nothing
            assert run.lengths[-1000:].count(0) > 900, machine


@pytest.mark.parametrize("rows", ROWS)
def test_an_account_bounds_what_is_lost_whatever_the_estimates_say(rows):
    """The header's bound, at every moment of a run on a machine that is made to mislead."""
    plain = Machine(0.3, 0.3, 0.0, noise=0.2, outliers=0.02)
    policy = AdaptiveLength(MAX_TOKENS)
    seconds, plain_s = 0.0, 0.0
    for part in range(40):  # a good draft for a moment, a bad one for long
        machine = replace(plain, acceptance=0.95 if part % 4 == 0 else 0.0)
        run = simulate(policy, machine, rows, 50, seed=part)
        seconds += run.seconds
        plain_s += run.tokens / machine.rate(rows, 0)
    start = 3 * plain.round(rows, 4)
    in_trial = 10 * plain.round(rows, 4)
    assert seconds <= 1.03 * plain_s + max(8, 64 / rows) * plain.step(rows) + start + in_trial


@pytest.mark.parametrize("rows", [1, 8])
def test_plain_decoding_is_left_when_drafts_begin_to_pay(rows):
    bad = Machine(0.1, 0.02, 0.0, noise=0.05)
    policy = AdaptiveLength(MAX_TOKENS)
    assert mode(simulate(policy, bad, rows, 500).lengths[-100:]) == 0
    good = replace(bad, acceptance=0.8)
    found = simulate(policy, good, rows, 1500, seed=1)
    assert mode(found.lengths[-200:]) > 0
    after = simulate(policy, good, rows, 1500, seed=2)
    assert after.rate >= 0.94 * good.best(rows, MAX_TOKENS)


@pytest.mark.parametrize("rows", [1, 8])
def test_drafting_ends_when_acceptance_drops(rows):
    good = Machine(0.1, 0.1, 0.85, noise=0.05)
    bad = replace(good, acceptance=0.02)
    policy = AdaptiveLength(MAX_TOKENS)
    simulate(policy, good, rows, 500)
    simulate(policy, bad, rows, 200, seed=1)
    after = simulate(policy, bad, rows, 2000, seed=2)
    assert after.rate >= 0.97 * bad.rate(rows, 0)


def test_each_number_of_rows_has_its_own_length():
    """Verifying many rows is dear here, so drafting pays for few rows only; batches come and go."""
    machine = Machine(0.1, 0.15, 0.7, noise=0.05)
    policy = AdaptiveLength(MAX_TOKENS)
    for turn in range(30):
        for rows in (16, 12, 8, 4, 2, 1):
            simulate(policy, machine, rows, 40, seed=turn)
    assert mode(simulate(policy, machine, 16, 200).lengths) == 0
    assert mode(simulate(policy, machine, 1, 200).lengths) > 0
    for rows in (16, 8, 4, 1):
        run = simulate(policy, machine, rows, 400, seed=99)
        assert run.rate >= 0.94 * machine.best(rows, MAX_TOKENS), rows


def test_a_length_found_with_many_rows_is_where_few_rows_begin():
    machine = Machine(0.05, 0.0, 0.8)
    policy = AdaptiveLength(MAX_TOKENS)
    simulate(policy, machine, 8, 300)
    run = simulate(policy, machine, 6, 40)
    assert run.rate >= 0.9 * machine.best(6, MAX_TOKENS)


def test_the_drafts_prompt_counts():
    """Drafts pay in the rounds, but reading the draft's prompt takes more than they save."""
    machine = Machine(0.1, 0.05, 0.5, prompt_cost=40.0)
    assert machine.best(4, MAX_TOKENS) > 1.05 * machine.rate(4, 0)
    policy = AdaptiveLength(MAX_TOKENS)
    simulate(policy, machine, 4, 1000)
    run = simulate(policy, machine, 4, 4000, seed=1)
    assert run.rate >= 0.96 * machine.rate(4, 0)


def test_a_few_bad_blocks_do_not_end_drafting():
    machine = Machine(0.1, 0.05, 0.8)
    policy = AdaptiveLength(MAX_TOKENS)
    simulate(policy, machine, 4, 200)
    run = simulate(policy, replace(machine, acceptance=0.0), 4, 3, seed=1)
    assert min(run.lengths) > 0
    assert policy.num_tokens(4) > 0


def test_one_slow_round_changes_nothing():
    machine = Machine(0.1, 0.05, 0.8)
    policy, other = AdaptiveLength(MAX_TOKENS), AdaptiveLength(MAX_TOKENS)
    for twin in (policy, other):
        simulate(twin, machine, 4, 203)
    k = policy.num_tokens(4)
    for twin, slow in ((policy, 20), (other, 1)):
        twin.observe(observed(4, k, [k // 2] * 4, machine.round(4, k) * slow))
    assert policy.num_tokens(4) == other.num_tokens(4) > 0
    assert mode(simulate(policy, machine, 4, 100).lengths) > 0


def test_rows_whose_prompt_is_still_read_say_nothing_of_the_draft():
    """Nothing was drafted: neither is the draft bad, nor is that what a round with drafts costs."""
    machine = Machine(0.1, 0.05, 0.8)
    policy = AdaptiveLength(MAX_TOKENS)
    for _ in range(20):
        k = policy.num_tokens(4)
        assert k > 0
        policy.observe(observed(4, k, None, machine.round(4, 0)))
    assert mode(simulate(policy, machine, 4, 300).lengths) > 2


def test_a_prompt_that_is_never_read_does_not_stop_the_start():
    policy = AdaptiveLength(MAX_TOKENS)
    for _ in range(400):
        k = policy.num_tokens(1)
        policy.observe(observed(1, k, None, 1.0))
    assert policy.num_tokens(1) >= 0


def test_a_proposer_that_is_rarely_sure_is_asked_for_what_it_brings():
    """It drafts 2 of 8 at most (it stops early), so asking for more is asking for 2."""
    policy = AdaptiveLength(8)
    for _ in range(400):
        k = policy.num_tokens(1)
        drafted = min(k, 2)
        policy.observe(observed(1, k, [drafted], 1 + 0.2 * drafted, drafted=drafted))
    assert policy.num_tokens(1) > 0


def test_at_least_one_token():
    with pytest.raises(ValueError, match="at least 1 token"):
        AdaptiveLength(0)


def observed(rows, k, accepted, round_s, drafted=None):
    """A round of which only the total time matters; accepted None: no row could draft."""
    accepted = tuple(accepted or ()) if k else ()
    return RoundObservation(
        rows,
        k,
        tuple(k if drafted is None else drafted for _ in accepted),
        accepted,
        draft_s=0.0,
        verify_s=round_s,
        round_s=round_s,
    )

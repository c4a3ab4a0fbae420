"""Loose acceptance of one block: what holds for any block (docs/method.md, section 8)."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoding.acceptance import RejectionCause, TokenKind, VerifiedBlock, accept_exact
from pipeline.decoding.loose import NO_SHIFTS, Shifts, differs_again, mismatches, walk
from pipeline.decoding.quantile import block_ranks, is_filler, ranking
from pipeline.speculation_config import QuantileScope

EOS = frozenset([0])
tokens = st.integers(min_value=0, max_value=4)


@st.composite
def blocks(draw, min_length=0):
    length = draw(st.integers(min_value=min_length, max_value=12))
    drafted = draw(st.lists(tokens, min_size=length, max_size=length))
    choices = draw(st.lists(tokens, min_size=length + 1, max_size=length + 1))
    return VerifiedBlock(drafted, choices, torch.zeros(length + 1, 5))


@st.composite
def scored_blocks(draw):
    block = draw(blocks(min_length=1))
    size = len(block.drafted)
    return block, draw(st.lists(st.integers(0, 4).map(float), min_size=size, max_size=size))


def judged(block, scores, relaxed_share):
    ranks = block_ranks(scores)
    return {
        j: None if is_filler(scores[j], ranks[j], relaxed_share) else RejectionCause.ANCHOR
        for j in mismatches(block)
    }


@given(scored_blocks())
def test_lambda_0_without_shifts_is_exact(case):
    block, scores = case
    kinds, cause = walk(block, judged(block, scores, 0.0), EOS, NO_SHIFTS)
    exact = accept_exact(block)
    stop = next((j + 1 for j, t in enumerate(block.drafted) if t in EOS), len(block.drafted))
    assert len(kinds) == min(exact.num_accepted, stop)
    assert set(kinds) <= {TokenKind.EXACT}
    assert (cause is None) == (exact.rejected_by is None or exact.num_accepted >= stop)


@given(scored_blocks(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 4))
def test_more_lambda_never_accepts_less(case, one, other, window):
    block, scores = case
    lengths = [
        len(walk(block, judged(block, scores, share), EOS, Shifts(window))[0])
        for share in sorted((one, other))
    ]
    assert lengths[0] <= lengths[1]


@given(scored_blocks(), st.floats(0, 1), st.integers(1, 4))
def test_shifts_never_accept_less(case, share, window):
    block, scores = case
    objections = judged(block, scores, share)
    without, _ = walk(block, objections, EOS, NO_SHIFTS)
    assert len(walk(block, objections, EOS, Shifts(window))[0]) >= len(without)


@given(scored_blocks(), st.floats(0, 1), st.integers(1, 4))
def test_a_shifted_token_comes_later_in_what_was_kept(case, share, window):
    block, scores = case
    kinds, cause = walk(block, judged(block, scores, share), EOS, Shifts(window))
    for j, kind in enumerate(kinds):
        if kind is TokenKind.SHIFTED:
            assert block.choices[j] in block.drafted[j + 1 : min(j + window + 1, len(kinds))]
        if kind is TokenKind.EXACT:
            assert block.drafted[j] == block.choices[j]
    ended = bool(kinds) and block.drafted[len(kinds) - 1] in EOS
    assert (cause is None) == (ended or len(kinds) == len(block.drafted))
    assert not EOS & set(block.drafted[: max(0, len(kinds) - 1)])


@given(scored_blocks())
def test_lambda_1_keeps_the_block_up_to_its_end(case):
    block, scores = case
    kinds, cause = walk(block, judged(block, scores, 1.0), EOS, NO_SHIFTS)
    assert cause is None
    stop = next((j + 1 for j, t in enumerate(block.drafted) if t in EOS), len(block.drafted))
    assert len(kinds) == stop


@given(scored_blocks(), st.integers(1, 4))
def test_causes_that_no_shift_cures(case, window):
    block, _ = case
    objections = dict.fromkeys(mismatches(block), RejectionCause.GUARD)
    strict = Shifts(window, frozenset([RejectionCause.GUARD]))
    assert walk(block, objections, EOS, strict) == walk(block, objections, EOS, NO_SHIFTS)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=20), st.floats(0, 1))
def test_ranks_are_monotone_and_ties_are_strict(scores, share):
    for scope in (QuantileScope.BLOCK, QuantileScope.RUNNING, QuantileScope.CALIBRATED):
        ranks = ranking(scope, [0.0, 1.0, 2.0, 3.0])(scores)
        assert all(0 <= rank <= 1 for rank in ranks)
        for a, rank_a in zip(scores, ranks):
            for b, rank_b in zip(scores, ranks):
                assert (a < b) <= (rank_a <= rank_b)
                assert (a == b) <= (rank_a == rank_b)
    fillers = [s for s, r in zip(scores, block_ranks(scores)) if is_filler(s, r, share)]
    assert len(fillers) <= share * len(scores)


def test_a_shift_whose_later_token_falls_is_undone_transitively():
    # 0 owes to 2, 1 owes to 3; position 3 is rejected, so 1 goes, and with it 2 and then 0.
    block = VerifiedBlock([1, 2, 3, 4], [3, 4, 3, 2, 1], torch.zeros(5, 5))
    objections = dict.fromkeys(mismatches(block), RejectionCause.ANCHOR)
    assert walk(block, objections, frozenset(), Shifts(3)) == ((), RejectionCause.ANCHOR)
    agreeing = VerifiedBlock([1, 2, 3, 4], [3, 4, 3, 4, 1], torch.zeros(5, 5))
    objections = dict.fromkeys(mismatches(agreeing), RejectionCause.ANCHOR)
    shifted, exact = TokenKind.SHIFTED, TokenKind.EXACT
    assert walk(agreeing, objections, frozenset(), Shifts(3)) == (
        (shifted, shifted, exact, exact),
        None,
    )


def test_a_second_disagreement_within_the_window():
    assert differs_again([1, 3, 9], window=2) == {1}
    assert differs_again([1, 3, 9], window=0) == set()

"""Guards exact speculation on real models: with any draft the output is the target's own greedy."""

from copy import deepcopy

import pytest

from pipeline.config import PromptConfig
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from tests.decoding import decode, decode_plainly, in_flight
from tests.tiny_models import tiny_clip

CASES = [
    (tiny_clip(num_frames=4, seed=1), PromptConfig()),
    (tiny_clip(num_frames=8, seed=2), PromptConfig(text="what happens ?")),
    (tiny_clip(num_frames=2, seed=3), PromptConfig(text="the dog")),
]
MAX_TOKENS = 40
MAX_LENGTH = 160


def requests(target, draft):
    return [
        CaptionRequest(str(i), target.prepare(*case), draft.prepare(*case))
        for i, case in enumerate(CASES)
    ]


def speculate(target, draft, num_speculative_tokens, stop, batch):
    sessions = [model.open_session(len(batch), MAX_LENGTH) for model in (target, draft)]
    return decode(in_flight(*sessions, stop, num_speculative_tokens), batch)


@pytest.fixture(scope="module")
def plain(pair):
    """Plain decoding with an end token that some of the captions reach."""
    prompts = [request.target for request in requests(pair.target, pair.draft)]

    def said(stop):
        session = pair.target.open_session(len(prompts), MAX_LENGTH)
        return decode_plainly(session, prompts, stop)

    to_the_limit = said(StopRule(frozenset(), MAX_TOKENS))
    stop = StopRule(frozenset([to_the_limit[0].token_ids[11]]), MAX_TOKENS)
    return stop, said(stop)


@pytest.mark.parametrize("num_speculative_tokens", [1, 2, 5, 12])
def test_exact_speculation_is_lossless(pair, plain, num_speculative_tokens):
    stop, expected = plain
    rows = speculate(
        pair.target, pair.draft, num_speculative_tokens, stop, requests(pair.target, pair.draft)
    )
    assert [row.token_ids for row in rows] == [row.token_ids for row in expected]
    assert [row.finish_reason for row in rows] == [row.finish_reason for row in expected]


def test_a_batch_counts_like_solo_runs(pair, plain):
    stop, _ = plain
    batch = requests(pair.target, pair.draft)
    together = speculate(pair.target, pair.draft, 4, stop, batch)
    alone = [speculate(pair.target, pair.draft, 4, stop, [request])[0] for request in batch]
    counted = [
        [(row.token_ids, row.stats.accepted_histogram, row.stats.drafted_tokens) for row in rows]
        for rows in (together, alone)
    ]
    assert counted[0] == counted[1]


def test_the_target_as_its_own_draft_is_always_accepted(pair):
    stop = StopRule(frozenset(), MAX_TOKENS)
    for row in speculate(pair.target, pair.target, 4, stop, requests(pair.target, pair.target)):
        assert row.stats.accepted_tokens == row.stats.drafted_tokens
        assert row.stats.rejected_by_cause == {}
        assert row.stats.target_steps == 8  # 1 + 7 rounds of 5, and one of 4


def test_the_draft_disagrees_sometimes(pair, plain):
    """Else the losslessness above would be tested on one branch only."""
    stop, _ = plain
    rows = speculate(pair.target, pair.draft, 4, stop, requests(pair.target, pair.draft))
    drafted = sum(row.stats.drafted_tokens for row in rows)
    accepted = sum(row.stats.accepted_tokens for row in rows)
    assert 0 < accepted < drafted


def test_a_bfloat16_target_with_a_float32_draft(pair):
    """The fast choice on CPU. Near ties flip with the shape of a product: counts, not equality."""
    target = type(pair.target)(
        deepcopy(pair.target.model).bfloat16(), pair.target.processor, "target", "bf16"
    )
    stop = StopRule(frozenset(), MAX_TOKENS)
    for row in speculate(target, pair.draft, 4, stop, requests(target, pair.draft)):
        assert len(row.token_ids) == row.stats.output_tokens == MAX_TOKENS
        assert 0 < row.stats.accepted_tokens < row.stats.drafted_tokens

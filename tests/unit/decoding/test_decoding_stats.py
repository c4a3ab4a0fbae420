"""Guards the counters: every token is counted once, and names mean what the schema says."""

from pipeline.decoding.acceptance import Acceptance, RejectionCause, TokenKind
from pipeline.decoding.stats import Round, Seconds, summarise

EXACT, RELAXED, SHIFTED = TokenKind.EXACT, TokenKind.RELAXED, TokenKind.SHIFTED
MISMATCH = RejectionCause.MISMATCH


def summarised(*rounds):
    seconds = Seconds(prefill_s=4.0, draft_s=1.0, verify_s=2.0, decode_s=3.5)
    return summarise(rounds, seconds, prompt_tokens=9, visual_tokens=5, max_drafted=3)


def test_each_token_is_counted_once():
    stats = summarised(
        Round(3, Acceptance((EXACT, RELAXED, SHIFTED), None, num_anchors=2), target_token=True),
        Round(3, Acceptance((EXACT,), MISMATCH, num_anchors=1), target_token=True),
        Round(3, Acceptance((), MISMATCH), target_token=True),
        Round(2, Acceptance((EXACT, EXACT), None), target_token=False),
    )
    assert stats.output_tokens == 1 + 4 + 2 + 1 + 2
    assert stats.correction_tokens == 3  # the first token, and after each of two rejections
    assert stats.bonus_tokens == 1
    assert (stats.relaxed_tokens, stats.shifted_tokens, stats.anchor_tokens) == (1, 1, 3)
    assert (stats.drafted_tokens, stats.accepted_tokens) == (11, 6)
    assert stats.target_steps == 4
    assert stats.accepted_histogram == (1, 1, 1, 1)
    assert stats.rejected_by_cause == {"mismatch": 2}
    assert stats.mean_accepted_length == 6 / 4


def test_a_round_without_a_draft_is_a_correction():
    stats = summarised(Round(0, Acceptance((), None), target_token=True))
    assert (stats.correction_tokens, stats.bonus_tokens, stats.output_tokens) == (2, 0, 2)


def test_a_caption_of_one_token():
    stats = summarised()
    assert (stats.output_tokens, stats.target_steps, stats.mean_accepted_length) == (1, 0, 0.0)
    assert stats.accepted_histogram == (0, 0, 0, 0)
    assert (stats.prompt_tokens, stats.visual_tokens) == (9, 5)


def test_seconds_pass_through():
    stats = summarised()
    assert (stats.prefill_s, stats.draft_s, stats.verify_s, stats.decode_s) == (4.0, 1.0, 2.0, 3.5)

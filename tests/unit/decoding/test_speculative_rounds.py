"""Guards one round at a time: what is emitted, what both caches hold, and the row's bookkeeping."""

from itertools import pairwise

import pytest

from pipeline.decoding.acceptance import Acceptance, TokenKind, exact_rule
from pipeline.decoding.autoregressive import decode_autoregressively
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule, unfinished
from pipeline.decoding.session import SlotError
from pipeline.decoding.speculative import SpeculativeDecoder
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from pipeline.records import FinishReason

TARGET = Script(min_length=20, max_length=30)
PROMPT = [5, 6, 7]
EOS = frozenset([EOS_TOKEN_ID])


def request(text=PROMPT, draft_text=None):
    draft = scripted_prompt(draft_text or text)
    return CaptionRequest("clip", scripted_prompt(text, 2), draft)


def opened(script, num_slots=1, max_length=64):
    return ScriptedSession(script, num_slots, max_length)


def decoder(agreement, k=4, max_tokens=50, rule=exact_rule, target=TARGET, num_slots=1):
    """The draft follows the target's script on the target's prompt, so prompts must be equal."""
    draft = Script(**{**_fields(target), "agreement": agreement})
    sessions = opened(target, num_slots), opened(draft, num_slots)
    return SpeculativeDecoder(*sessions, StopRule(EOS, max_tokens), rule, k), *sessions


def _fields(script):
    return {f: getattr(script, f) for f in ("seed", "vocab_size", "min_length", "max_length")}


def shared(text=PROMPT):
    inputs = scripted_prompt(text)
    return CaptionRequest("clip", inputs, inputs)


def plain(text=PROMPT, max_tokens=50, target=TARGET):
    inputs = [scripted_prompt(text)]
    return decode_autoregressively(opened(target), inputs, StopRule(EOS, max_tokens))[0]


def rounds(agreement, **kwargs):
    """The rows' only row after each round, with the lengths of both caches."""
    speculative, target, draft = decoder(agreement, **kwargs)
    rows = []
    speculative.prefill(0, shared(), rows)
    (row,) = rows
    while unfinished(rows):
        speculative.step(rows)
        yield row, target.cached_length(0), draft.cached_length(0)


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_after_every_round_the_caches_hold_what_was_committed(agreement, k):
    for row, target_length, draft_length in rounds(agreement, k=k):
        committed = len(PROMPT) + len(row.token_ids) - 1
        assert target_length == committed
        assert committed - 1 <= draft_length <= committed


def test_a_perfect_draft_is_kept_whole_every_round():
    for row, _, _ in rounds(1.0, k=4):
        assert row.rounds[-1].acceptance.num_accepted == row.rounds[-1].num_drafted
    stats = row.finished(4).stats
    assert stats.rejected_by_cause == {}
    assert stats.correction_tokens == 1
    assert stats.target_steps == -(-(stats.output_tokens - 1) // 5)


def test_an_adversarial_draft_costs_steps_and_changes_nothing():
    lengths = [len(row.token_ids) for row, _, _ in rounds(0.0, k=4)]
    assert all(after - before == 1 for before, after in pairwise([1, *lengths]))
    row, _, _ = list(rounds(0.0, k=4))[-1]
    stats = row.finished(4).stats
    assert (stats.accepted_tokens, stats.bonus_tokens, stats.mean_accepted_length) == (0, 0, 0.0)
    assert stats.rejected_by_cause == {"mismatch": stats.target_steps}
    assert row.token_ids == list(plain().token_ids)


def test_nothing_follows_an_accepted_end():
    """The end falls inside a block: the draft stops there, and no bonus is emitted."""
    (row,) = decoder(1.0, k=12)[0].decode([shared()])
    assert row.token_ids == plain().token_ids
    assert row.token_ids.index(EOS_TOKEN_ID) == len(row.token_ids) - 1
    assert row.finish_reason is FinishReason.STOP
    assert row.stats.drafted_tokens == row.stats.accepted_tokens


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("agreement", [0.0, 1.0])
def test_max_tokens_is_never_exceeded(max_tokens, agreement):
    speculative, *_ = decoder(agreement, k=5, max_tokens=max_tokens)
    (row,) = speculative.decode([shared()])
    assert row.token_ids == plain(max_tokens=max_tokens).token_ids
    assert len(row.token_ids) == max_tokens
    assert row.finish_reason is FinishReason.LENGTH
    assert row.stats.output_tokens == max_tokens


def test_a_draft_with_a_prompt_of_another_length_is_fed_the_right_tokens():
    """A pruned draft prompt is shorter than the target's; lengths must not be mixed up."""
    speculative, *_ = decoder(1.0, k=3)
    (row,) = speculative.decode([request(draft_text=[5, 6, 7, 8, 9])])
    inputs = [scripted_prompt(PROMPT, 2)]
    (expected,) = decode_autoregressively(opened(TARGET), inputs, StopRule(EOS, 50))
    assert row.token_ids == expected.token_ids


def test_another_rule_drops_in():
    """Keeping every drafted token gives the draft's words and the target's bonuses; it ends."""

    def accept_all(block):
        return Acceptance((TokenKind.RELAXED,) * len(block.drafted), None)

    speculative, *_ = decoder(0.0, k=4, max_tokens=16, rule=lambda *_: accept_all, num_slots=8)
    rows = speculative.decode([shared([text]) for text in range(2, 10)])
    for row in rows:
        assert row.stats.relaxed_tokens == row.stats.drafted_tokens
        assert row.stats.correction_tokens == 1
        assert len(row.token_ids) <= 16
    assert max(row.stats.bonus_tokens for row in rows) == 3  # 1 + 3 rounds of 4 and 1


def test_rules_are_made_per_row_and_see_the_block():
    seen = []

    def watch(request, prefill):
        assert prefill.logits.shape == (TARGET.vocab_size,)
        blocks = []
        seen.append(blocks)

        def rule(block):
            blocks.append(block)
            return exact_rule(request, prefill)(block)

        return rule

    speculative, *_ = decoder(0.5, k=3, rule=watch, num_slots=2)
    speculative.decode([shared(), shared([9, 9])])
    assert len(seen) == 2
    for block in (block for blocks in seen for block in blocks):
        assert block.logits.shape == (len(block.drafted) + 1, TARGET.vocab_size)
        assert block.logits.argmax(-1).tolist() == list(block.choices)


def test_slots_are_free_after_an_error():
    """One clip too long for its slot must not take the others' slots with it."""
    speculative, target, draft = decoder(1.0, num_slots=3)
    with pytest.raises(SlotError, match="do not fit"):
        speculative.decode([shared(), shared([5] * 65)])
    for session in (target, draft):
        assert [session.cached_length(slot) for slot in range(3)] == [0, 0, 0]
    assert len(speculative.decode([shared(), shared([9]), shared([8])])) == 3


def test_an_error_in_the_drafts_prefill_frees_the_targets_slot():
    speculative = SpeculativeDecoder(
        opened(TARGET), opened(TARGET, max_length=2), StopRule(EOS, 5), exact_rule, 2
    )
    for _ in range(2):
        with pytest.raises(SlotError, match="do not fit"):
            speculative.decode([shared()])


def test_vocabularies_must_be_equal():
    with pytest.raises(ValueError, match="vocabularies differ"):
        SpeculativeDecoder(
            opened(TARGET), opened(Script(vocab_size=33)), StopRule(EOS, 5), exact_rule, 2
        )


def test_seconds_are_split():
    (row,) = decoder(0.7)[0].decode([shared()])
    stats = row.stats
    assert min(stats.prefill_s, stats.draft_s, stats.verify_s) > 0
    assert stats.draft_s + stats.verify_s <= stats.decode_s

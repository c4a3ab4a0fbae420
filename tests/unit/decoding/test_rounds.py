"""Guards one round at a time: what is emitted, what the caches hold, and the row's bookkeeping."""

from dataclasses import replace

import pytest

from pipeline.decoding.acceptance import Acceptance, TokenKind, exact_rule
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.decoding.session import SlotError
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from pipeline.records import FinishReason
from tests.decoding import decode, decode_plainly, in_flight

TARGET = Script(min_length=20, max_length=30)
PROMPT = [5, 6, 7]
EOS = frozenset([EOS_TOKEN_ID])


def opened(script, num_slots=1, max_length=64):
    return ScriptedSession(script, num_slots, max_length)


def batch(agreement, k=4, max_tokens=50, target=TARGET, num_slots=1):
    """The draft follows the target's script on the target's prompt, so prompts must be equal."""
    sessions = [
        opened(script, num_slots) for script in (target, replace(target, agreement=agreement))
    ]
    return in_flight(*sessions, StopRule(EOS, max_tokens), k), *sessions


def shared(text=PROMPT):
    inputs = scripted_prompt(text)
    return CaptionRequest("clip", inputs, inputs)


def plain(text=PROMPT, max_tokens=50, target=TARGET):
    return decode_plainly(opened(target), [scripted_prompt(text)], StopRule(EOS, max_tokens))[0]


def accept_all(block):
    return Acceptance((TokenKind.RELAXED,) * len(block.drafted), None)


class WatchedSession(ScriptedSession):
    """Keeps what each forward found in the cache, and what it was fed."""

    def __init__(self, script, num_slots=1, max_length=64):
        super().__init__(script, num_slots, max_length)
        self.seen = []

    def forward(self, slots, token_ids):
        for slot, tokens in zip(slots, token_ids):
            self.seen.append((tuple(self._slots[slot].token_ids), tuple(tokens)))
        return super().forward(slots, token_ids)


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("k", [1, 3, 12])
@pytest.mark.parametrize("rule", [exact_rule, lambda *_: accept_all])
def test_before_every_round_the_target_caches_what_was_committed(agreement, k, rule):
    """All of the caption but its newest token, which is the first one fed: so for any rule."""
    target, draft = WatchedSession(TARGET), opened(replace(TARGET, agreement=agreement))
    (row,) = decode(in_flight(target, draft, StopRule(EOS, 40), k), [shared()], rule)
    assert len(target.seen) == row.stats.target_steps
    lengths = []
    for cached, fed in target.seen:
        committed = (*cached, fed[0])
        assert committed == row.token_ids[: len(committed)]
        lengths.append(len(committed))
    assert lengths == sorted(set(lengths))


def test_a_perfect_draft_is_kept_whole_every_round():
    (row,) = decode(batch(1.0, k=4)[0], [shared()])
    stats = row.stats
    assert stats.accepted_tokens == stats.drafted_tokens
    assert stats.rejected_by_cause == {}
    assert stats.correction_tokens == 1
    assert stats.target_steps == -(-(stats.output_tokens - 1) // 5)


def test_an_adversarial_draft_costs_steps_and_changes_nothing():
    (row,) = decode(batch(0.0, k=4)[0], [shared()])
    stats = row.stats
    assert stats.target_steps == stats.output_tokens - 1
    assert (stats.accepted_tokens, stats.bonus_tokens, stats.mean_accepted_length) == (0, 0, 0.0)
    assert stats.rejected_by_cause == {"mismatch": stats.target_steps}
    assert row.token_ids == plain().token_ids


def test_nothing_follows_an_accepted_end():
    """The end falls inside a block: the draft stops there, and no bonus is emitted."""
    (row,) = decode(batch(1.0, k=12)[0], [shared()])
    assert row.token_ids == plain().token_ids
    assert row.token_ids.index(EOS_TOKEN_ID) == len(row.token_ids) - 1
    assert row.finish_reason is FinishReason.STOP
    assert row.stats.drafted_tokens == row.stats.accepted_tokens


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("agreement", [0.0, 1.0])
def test_max_tokens_is_never_exceeded(max_tokens, agreement):
    (row,) = decode(batch(agreement, k=5, max_tokens=max_tokens)[0], [shared()])
    assert row.token_ids == plain(max_tokens=max_tokens).token_ids
    assert len(row.token_ids) == max_tokens
    assert row.finish_reason is FinishReason.LENGTH
    assert row.stats.output_tokens == max_tokens


def test_a_draft_with_a_prompt_of_another_length_is_fed_the_right_tokens():
    """A pruned draft prompt is shorter than the target's; lengths must not be mixed up."""
    target, draft = opened(TARGET), WatchedSession(TARGET)
    request = CaptionRequest("clip", scripted_prompt(PROMPT, 2), scripted_prompt([5, 6, 7, 8, 9]))
    (row,) = decode(in_flight(target, draft, StopRule(EOS, 50), 3), [request])
    inputs = [scripted_prompt(PROMPT, 2)]
    (expected,) = decode_plainly(opened(TARGET), inputs, StopRule(EOS, 50))
    assert row.token_ids == expected.token_ids
    assert draft.seen[0] == ((), row.token_ids[:1])


def test_another_rule_drops_in():
    """Keeping every drafted token gives the draft's words and the target's bonuses; it ends.

    That is lambda = 1 without guards (docs/method.md, invariant 3): never an endless loop.
    """
    loose, *_ = batch(0.0, k=4, max_tokens=16, num_slots=8)
    rows = decode(loose, [shared([text]) for text in range(2, 10)], lambda *_: accept_all)
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

    decode(batch(0.5, k=3, num_slots=2)[0], [shared(), shared([9, 9])], watch)
    assert len(seen) == 2
    for block in (block for blocks in seen for block in blocks):
        assert block.logits.shape == (len(block.drafted) + 1, TARGET.vocab_size)
        assert block.logits.argmax(-1).tolist() == list(block.choices)


def test_slots_are_free_after_an_error():
    """One clip too long for its slot must not take the others' slots with it."""
    speculative, target, draft = batch(1.0, num_slots=3)
    with pytest.raises(SlotError, match="do not fit"):
        decode(speculative, [shared(), shared([5] * 65)])
    for session in (target, draft):
        assert [session.cached_length(slot) for slot in range(3)] == [0, 0, 0]
    assert len(decode(speculative, [shared(), shared([9]), shared([8])])) == 3


def test_an_error_in_the_drafts_prefill_frees_the_targets_slot():
    speculative = in_flight(opened(TARGET), opened(TARGET, max_length=2), StopRule(EOS, 5), 2)
    for _ in range(2):
        with pytest.raises(SlotError, match="do not fit"):
            decode(speculative, [shared()])


def test_an_error_in_a_rule_frees_all_slots():
    def broken(block):
        raise ArithmeticError

    speculative, target, draft = batch(0.5, num_slots=2)
    with pytest.raises(ArithmeticError):
        decode(speculative, [shared(), shared([9])], lambda *_: broken)
    for session in (target, draft):
        assert [session.cached_length(slot) for slot in range(2)] == [0, 0]
    assert len(decode(speculative, [shared(), shared([9])])) == 2


def test_seconds_are_split():
    (row,) = decode(batch(0.7)[0], [shared()])
    stats = row.stats
    assert min(stats.prefill_s, stats.draft_s, stats.verify_s, stats.scoring_s) > 0
    assert stats.draft_s + stats.verify_s + stats.scoring_s <= stats.decode_s

"""Guards plain decoding: the script is said to its end, row by row, and time is accounted for."""

from itertools import count

import pytest

from pipeline.decoding import autoregressive, speculative
from pipeline.decoding.acceptance import exact_rule
from pipeline.decoding.autoregressive import decode_autoregressively
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.decoding.session import SlotError
from pipeline.decoding.speculative import SpeculativeDecoder
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from pipeline.records import FinishReason

SCRIPT = Script(min_length=3, max_length=12)
STOP = StopRule(frozenset([EOS_TOKEN_ID]), max_tokens=50)
PROMPTS = [[5], [6, 7], [8], [9, 9, 9]]


def opened(num_slots=4):
    return ScriptedSession(SCRIPT, num_slots, max_length=64)


def inputs():
    return [scripted_prompt(prompt) for prompt in PROMPTS]


def test_each_row_says_its_script_to_the_end():
    rows = decode_autoregressively(opened(), inputs(), STOP)
    for prompt, row in zip(PROMPTS, rows):
        said = []
        while EOS_TOKEN_ID not in said:
            said.append(SCRIPT.next_token(prompt, said))
        assert row.token_ids == tuple(said)
        assert row.finish_reason is FinishReason.STOP
        assert row.stats.target_steps == len(said) - 1
        assert row.stats.correction_tokens == len(said)
        assert row.stats.accepted_histogram == (len(said) - 1,)
    assert len({len(row.token_ids) for row in rows}) > 1


def test_slots_are_free_afterwards_also_after_an_error():
    session = opened()
    with pytest.raises(SlotError, match="do not fit"):
        decode_autoregressively(session, [scripted_prompt([5]), scripted_prompt([5] * 65)], STOP)
    assert len(decode_autoregressively(session, inputs(), STOP)) == len(PROMPTS)
    assert [session.cached_length(slot) for slot in range(4)] == [0] * 4


def test_the_seconds_of_a_batch_add_up_to_its_time(monkeypatch):
    """A step's time is split among the rows that it served."""
    ticks = count()
    for module in (autoregressive, speculative):
        monkeypatch.setattr(module, "perf_counter", lambda: next(ticks))
    rows = decode_autoregressively(opened(), inputs(), STOP)
    steps = max(row.stats.target_steps for row in rows)
    assert sum(row.stats.decode_s for row in rows) == pytest.approx(steps)
    assert [row.stats.prefill_s for row in rows] == [1, 1, 1, 1]

    decoder = SpeculativeDecoder(opened(), opened(), STOP, exact_rule, 3)
    rows = decoder.decode([CaptionRequest("clip", i, i) for i in inputs()])
    steps = max(row.stats.target_steps for row in rows)
    assert sum(row.stats.draft_s for row in rows) == pytest.approx(steps)
    assert sum(row.stats.verify_s for row in rows) == pytest.approx(steps)
    assert sum(row.stats.decode_s for row in rows) == pytest.approx(3 * steps)

"""Guards plain decoding: the script is said to its end, row by row, and time is accounted for."""

from itertools import count

import pytest

from pipeline.decoding import inflight
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.decoding.session import SlotError
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from pipeline.records import FinishReason
from tests.decoding import decode, decode_plainly, in_flight

SCRIPT = Script(min_length=3, max_length=12)
STOP = StopRule(frozenset([EOS_TOKEN_ID]), max_tokens=50)
PROMPTS = [[5], [6, 7], [8], [9, 9, 9]]


def opened(num_slots=4):
    return ScriptedSession(SCRIPT, num_slots, max_length=64)


def inputs():
    return [scripted_prompt(prompt) for prompt in PROMPTS]


def test_each_row_says_its_script_to_the_end():
    rows = decode_plainly(opened(), inputs(), STOP)
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
        decode_plainly(session, [scripted_prompt([5]), scripted_prompt([5] * 65)], STOP)
    assert len(decode_plainly(session, inputs(), STOP)) == len(PROMPTS)
    assert [session.cached_length(slot) for slot in range(4)] == [0] * 4


def test_the_seconds_of_a_batch_add_up_to_its_time(monkeypatch):
    """A step's time is split among the rows that it served; a rule's time is its row's own."""
    ticks = count()
    monkeypatch.setattr(inflight, "perf_counter", lambda: next(ticks))
    rows = decode_plainly(opened(), inputs(), STOP)
    steps = max(row.stats.target_steps for row in rows)
    assert sum(row.stats.verify_s for row in rows) == pytest.approx(steps)
    assert sum(row.stats.draft_s for row in rows) == pytest.approx(steps)  # a tick, not work
    assert sum(row.stats.decode_s for row in rows) == pytest.approx(3 * steps)
    assert [row.stats.prefill_s for row in rows] == [2, 2, 2, 2]
    assert [row.stats.scoring_s for row in rows] == [0, 0, 0, 0]

    batch = in_flight(opened(), opened(), STOP, 3)
    rows = decode(batch, [CaptionRequest("clip", i, i) for i in inputs()])
    steps = max(row.stats.target_steps for row in rows)
    row_steps = sum(row.stats.target_steps for row in rows)
    drafted_steps = sum(row.stats.scoring_s for row in rows)
    assert sum(row.stats.draft_s for row in rows) == pytest.approx(steps)
    assert sum(row.stats.verify_s for row in rows) == pytest.approx(steps)
    assert row_steps - len(rows) <= drafted_steps <= row_steps
    assert sum(row.stats.decode_s for row in rows) == pytest.approx(3 * steps + 2 * drafted_steps)

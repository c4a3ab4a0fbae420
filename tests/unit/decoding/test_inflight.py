"""Guards the loop around the rounds: who is read when, which slot is taken, when rows leave."""

import pytest

from pipeline.decoding.acceptance import Acceptance, RejectionCause, TokenKind, exact_rule
from pipeline.decoding.inflight import InFlightBatch
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodingJob, StopRule
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from pipeline.records import TokenDecision
from tests.decoding import draft_inputs, in_flight

SCRIPT = Script(min_length=9, max_length=9)
STOP = StopRule(frozenset([EOS_TOKEN_ID]), max_tokens=20)


class LoggingSession(ScriptedSession):
    """Keeps who was read and who decoded, in order: ("read", slot, tokens), ("round", slots)."""

    def __init__(self, num_slots=2, max_length=256, script=SCRIPT):
        super().__init__(script, num_slots, max_length)
        self.log = []

    def continue_prefill(self, slot, max_tokens):
        before = self.cached_length(slot)
        output = super().continue_prefill(slot, max_tokens)
        self.log.append(("read", slot, self.cached_length(slot) - before))
        return output

    def forward(self, slots, token_ids):
        self.log.append(("round", tuple(slots)))
        return super().forward(slots, token_ids)


def jobs(*prompt_lengths, rule=exact_rule):
    for n, length in enumerate(prompt_lengths):
        inputs = scripted_prompt([2 + n] * length)
        yield DecodingJob(CaptionRequest(str(n), inputs, inputs), rule)


def test_a_long_prompt_is_read_in_pieces_between_the_rounds_of_the_others():
    session = LoggingSession()
    list(in_flight(session, None, STOP, max_num_batched_tokens=10).decode(jobs(4, 25)))
    assert session.log[:7] == [
        ("read", 0, 4),
        ("read", 1, 6),  # what is left of the 10
        ("round", (0,)),
        ("read", 1, 10),
        ("round", (0,)),
        ("read", 1, 9),
        ("round", (0, 1)),
    ]


def test_the_draft_prompt_counts_among_the_tokens_read():
    target, draft = LoggingSession(), LoggingSession()
    list(in_flight(target, draft, STOP, 2, max_num_batched_tokens=10).decode(jobs(6, 6)))
    assert [entry for entry in target.log if entry[0] == "read"] == [("read", 0, 6), ("read", 1, 6)]
    assert draft.log[:3] == [("read", 0, 4), ("read", 0, 2), ("read", 1, 2)]


def test_a_row_that_ends_leaves_at_once_and_the_next_takes_its_slot():
    session = LoggingSession()
    batch = in_flight(session, None, STOP)
    asked = []

    def watched():
        for job in jobs(3, 5, 7, 9):
            asked.append(job.request.clip_id)
            yield job

    rows = batch.decode(watched())
    ended = [next(rows)[0].request.clip_id]
    assert asked == ["0", "1"]  # no job is asked for before there is a slot
    ended += [job.request.clip_id for job, _ in rows]
    assert ended == ["0", "1", "2", "3"]
    assert {entry[1] for entry in session.log if entry[0] == "round"} == {(0, 1)}


def test_the_lowest_free_slot_is_taken():
    session = LoggingSession(num_slots=3, script=Script(min_length=2, max_length=30))
    list(in_flight(session, None, STOP).decode(jobs(*range(1, 9))))
    rounds = [entry[1] for entry in session.log if entry[0] == "round"]
    assert all(list(slots) == sorted(slots) for slots in rounds)
    assert rounds[0] == (0, 1, 2)


def test_a_caller_that_stops_listening_leaves_no_row_behind():
    session = LoggingSession()
    rows = in_flight(session, None, STOP).decode(jobs(3, 5, 7, 9))
    next(rows)
    rows.close()
    assert [session.cached_length(slot) for slot in range(2)] == [0, 0]


class Lengths:
    """A policy that drafts nothing in the first rounds, and keeps what it observes."""

    max_tokens = 3

    def __init__(self, num_plain):
        self.num_plain = num_plain
        self.observed = []

    def num_tokens(self, num_rows):
        return 0 if len(self.observed) < self.num_plain else self.max_tokens

    def observe(self, observation):
        self.observed.append(observation)


@pytest.mark.parametrize("num_plain", [2, 50])
def test_a_draft_that_is_not_asked_reads_nothing(num_plain):
    """K = 0 costs what plain decoding does; once K is above 0 the draft catches up at one go."""
    target, draft = LoggingSession(), LoggingSession()
    lengths = Lengths(num_plain)
    batch = InFlightBatch(
        target,
        STOP,
        max_num_batched_tokens=100,
        proposer=ModelProposer(draft, draft_inputs, STOP.eos_token_ids),
        lengths=lengths,
    )
    rows = [row for _, row in batch.decode(jobs(3, 4))]
    assert [len(row.token_ids) for row in rows] == [9, 9]
    if num_plain == 50:
        assert draft.log == []
        assert [o.asked for o in lengths.observed] == [0] * 8
        return
    assert draft.log[:3] == [("read", 0, 3), ("read", 1, 4), ("round", (0, 1))]
    assert [(o.asked, o.drafted) for o in lengths.observed] == [
        (0, ()),
        (0, ()),
        (3, (3, 3)),
        (3, (2, 2)),  # the end of the caption
    ]
    assert all(o.num_rows == 2 and o.accepted == o.drafted for o in lengths.observed)
    assert [o.num_prompts_read for o in lengths.observed] == [0, 0, 2, 0]
    assert [o.prompt_s > 0 for o in lengths.observed] == [False, False, True, False]
    assert [o.num_ended for o in lengths.observed] == [0, 0, 0, 2]
    assert all(0 < o.draft_s + o.verify_s < o.round_s for o in lengths.observed)


def test_each_token_of_a_sampled_caption_says_why_it_is_there():
    def scored(request, prefill):
        def accept(block):
            kinds = (TokenKind.EXACT,) * (len(block.drafted) - 1)
            scores = tuple(0.5 + j for j in range(len(block.drafted)))
            return Acceptance(kinds, RejectionCause.ANCHOR, 1, scores, scores)

        return accept

    inputs = scripted_prompt([5])
    request = CaptionRequest("clip", inputs, inputs)
    batch = in_flight(LoggingSession(), LoggingSession(), STOP, 3)
    ((_, row),) = batch.decode([DecodingJob(request, scored, with_decisions=True)])
    assert tuple(decision.token_id for decision in row.decisions) == row.token_ids
    first, second = row.token_ids[:2]
    assert row.decisions[0] == TokenDecision(first, "correction", first, None, None)
    assert row.decisions[1] == TokenDecision(second, "exact", second, 0.5, 0.5)
    kinds = [decision.kind for decision in row.decisions]
    assert kinds[1:4] == ["exact", "exact", "correction"]
    assert row.decisions[3].anchor_score is None


def test_decisions_are_not_kept_for_others():
    ((_, row),) = in_flight(LoggingSession(), None, STOP).decode(jobs(3))
    assert row.decisions == ()

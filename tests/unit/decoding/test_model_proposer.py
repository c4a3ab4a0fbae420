"""Guards drafts by a model: what its cache holds, when a draft stops, whom it depends on."""

import pytest
import torch

from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import PrefillOutput
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from tests.decoding import draft_inputs

SCRIPT = Script(min_length=12, max_length=12)
PREFILL = PrefillOutput(torch.zeros(1))
PROMPTS = ([5, 6], [7, 8, 9], [4])


class LoggingSession(ScriptedSession):
    """Keeps what was fed; logits scaled, so that the model's choice is as sure as asked."""

    def __init__(self, scale=1.0, script=SCRIPT):
        super().__init__(script, num_slots=3, max_length=64)
        self.fed = []
        self.scale = scale

    def forward(self, slots, token_ids):
        self.fed.append(dict(zip(slots, map(list, token_ids))))
        return super().forward(slots, token_ids)

    def _logits(self, prompt, token_ids):
        return super()._logits(prompt, token_ids) * self.scale


def proposer(session, slots=(0,), **options):
    made = ModelProposer(session, draft_inputs, frozenset([EOS_TOKEN_ID]), **options)
    for slot in slots:
        inputs = scripted_prompt(PROMPTS[slot])
        made.admit(slot, CaptionRequest(str(slot), inputs, inputs), PREFILL)
        assert made.read_prompt(slot, 100) == (len(PROMPTS[slot]), True)
    return made


def said(num_tokens, slot=0):
    tokens = []
    while len(tokens) < num_tokens:
        tokens.append(SCRIPT.next_token(PROMPTS[slot], tokens))
    return tokens


def test_a_draft_goes_on_from_what_was_committed():
    session = LoggingSession()
    (proposal,) = proposer(session).propose([0], [said(1)], [3])
    assert proposal.token_ids == said(4)[1:]
    assert proposal.probs is None
    assert [fed[0] for fed in session.fed] == [[token] for token in said(3)]


def test_what_the_cache_misses_is_fed_in_one_forward():
    """Two tokens after a block kept whole; many after rounds in which nothing was drafted."""
    session = LoggingSession()
    drafting = proposer(session)
    drafting.propose([0], [said(1)], [3])
    drafting.propose([0], [said(5)], [1])
    assert session.fed[-1] == {0: said(5)[3:]}
    drafting.propose([0], [said(10)], [1])
    assert session.fed[-1] == {0: said(10)[5:]}


def test_what_was_rejected_is_dropped():
    session = LoggingSession()
    drafting = proposer(session)
    drafting.propose([0], [said(1)], [4])
    assert session.cached_length(0) == 2 + 4
    other = [*said(2), 3]  # the second drafted token was replaced
    assert other != said(3)
    drafting.propose([0], [other], [1])
    assert session.fed[-1] == {0: [3]}
    assert session._slots[0].token_ids == other


def test_the_same_token_in_place_of_the_drafted_one_is_kept():
    session = LoggingSession()
    drafting = proposer(session)
    drafting.propose([0], [said(1)], [4])
    drafting.propose([0], [said(3)], [1])
    assert session.fed[-1] == {0: said(3)[2:]}


def test_a_draft_stops_at_the_end():
    session = LoggingSession()
    (proposal,) = proposer(session).propose([0], [said(9)], [8])
    assert proposal.token_ids == said(12)[9:]
    assert proposal.token_ids[-1] == EOS_TOKEN_ID


@pytest.mark.parametrize(("threshold", "num_drafted"), [(0.0, 4), (0.5, 4), (0.99, 1)])
def test_a_draft_stops_after_a_token_that_it_doubts(threshold, num_drafted):
    session = LoggingSession(scale=5.0)  # probability e^5 / (e^5 + 31) = 0.83
    drafting = proposer(session, confidence_threshold=threshold)
    (proposal,) = drafting.propose([0], [said(1)], [4])
    assert proposal.token_ids == said(1 + num_drafted)[1:]


def test_only_tokens_that_matter_stop_a_doubting_draft():
    """A loose rule lets other tokens pass; the third one is visual here."""
    session = LoggingSession(scale=5.0)
    drafting = proposer(session, confidence_threshold=0.99, doubted_ids=frozenset([said(4)[3]]))
    (proposal,) = drafting.propose([0], [said(1)], [6])
    assert proposal.token_ids == said(4)[1:]


def test_rows_draft_together_and_leave_one_by_one():
    session = LoggingSession()
    drafting = proposer(session, slots=(0, 1, 2))
    slots = [2, 0, 1]
    committed = [said(1, slot) for slot in slots]
    proposals = drafting.propose(slots, committed, [1, 0, 3])
    assert [p.token_ids for p in proposals] == [said(2, 2)[1:], (), said(4, 1)[1:]]
    assert [list(fed) for fed in session.fed] == [[2, 1], [1], [1]]
    for slot in slots:
        drafting.release(slot, [])
        assert session.cached_length(slot) == 0


def test_a_row_whose_prompt_was_not_read_can_be_released():
    session = LoggingSession()
    drafting = ModelProposer(session, draft_inputs, frozenset())
    inputs = scripted_prompt([5] * 6)
    for num_read in (0, 4):
        drafting.admit(0, CaptionRequest("a", inputs, inputs), PREFILL)
        if num_read:
            assert drafting.read_prompt(0, num_read) == (num_read, False)
        drafting.release(0, [])
        assert session.cached_length(0) == 0


def test_sampled_drafts_say_what_they_were_drawn_from_and_know_no_neighbour():
    def drafted(slots, wanted):
        session = LoggingSession(scale=2.0)
        drafting = proposer(session, slots, temperature=0.7, seed=3)
        return drafting.propose(slots, [said(1, slot) for slot in slots], wanted)

    together = drafted([0, 1, 2], [5, 3, 5])
    (alone,) = drafted([2], [5])
    assert together[2].token_ids == alone.token_ids
    assert torch.equal(together[2].probs, alone.probs)
    assert [p.probs.shape for p in together] == [(len(p.token_ids), 32) for p in together]
    logits = torch.zeros(32)
    logits[said(2)[1]] = 2.0
    assert torch.allclose(together[0].probs[0], (logits / 0.7).softmax(-1))
    assert len({tuple(p.token_ids[:3]) for p in together}) == 3


def test_half_way_reading_counts_on():
    session = LoggingSession()
    drafting = ModelProposer(session, draft_inputs, frozenset())
    inputs = scripted_prompt([5] * 6)
    drafting.admit(1, CaptionRequest("a", inputs, inputs), PREFILL)
    assert drafting.read_prompt(1, 4) == (4, False)
    assert drafting.read_prompt(1, 4) == (2, True)

"""Guards the adaptive length through the loop: same captions, and drafts only where they pay.

Rounds are timed by a made-up machine, so that no clock decides what is drafted.
"""

from dataclasses import replace

import pytest

from pipeline.config import GenerationConfig
from pipeline.decoding.acceptance import exact_rule
from pipeline.decoding.draft_length import AdaptiveLength
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.inflight import InFlightBatch
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.scripted import (
    EOS_TOKEN_ID,
    Script,
    ScriptedSession,
    ScriptedVideoLM,
    scripted_prompt,
)
from pipeline.speculation_config import SpeculationConfig
from tests.decoding import decode, decode_plainly, draft_inputs
from tests.simulated_rounds import Machine

SCRIPT = Script(seed=3, min_length=30, max_length=40)
STOP = StopRule(frozenset([EOS_TOKEN_ID]), 64)
MAX_TOKENS = 6
MACHINE = Machine(draft_cost=0.15, token_cost=0.1, acceptance=0.0)


class TimedLength:
    """Implements DraftLengthPolicy: adaptive, on the made-up machine's time."""

    def __init__(self):
        self._policy = AdaptiveLength(MAX_TOKENS)
        self.asked = []

    @property
    def max_tokens(self):
        return self._policy.max_tokens

    def num_tokens(self, num_rows):
        return self._policy.num_tokens(num_rows)

    def observe(self, observation):
        rows, drafted = observation.num_rows, observation.drafted
        self.asked.append(observation.asked)
        steps = max(drafted, default=0)
        round_s = MACHINE.step(rows) * (1 + MACHINE.draft_cost * steps)
        round_s += MACHINE.token_cost * sum(drafted)
        prompt_s = 2.0 * observation.num_prompts_read
        self._policy.observe(replace(observation, round_s=round_s, prompt_s=prompt_s))


def prompts(num_clips):
    return [scripted_prompt([5 + i % 20, 9, 3 + i % 7, 2 + i // 20]) for i in range(num_clips)]


def timed(agreement, num_slots, num_clips):
    """The rows, and the K of every round."""
    lengths = TimedLength()
    draft = ScriptedSession(replace(SCRIPT, agreement=agreement), num_slots, 100)
    batch = InFlightBatch(
        ScriptedSession(SCRIPT, num_slots, 100),
        STOP,
        max_num_batched_tokens=16,
        proposer=ModelProposer(draft, draft_inputs, STOP.eos_token_ids),
        lengths=lengths,
    )
    requests = [
        CaptionRequest(str(n), prompt, prompt) for n, prompt in enumerate(prompts(num_clips))
    ]
    return decode(batch, requests, exact_rule), lengths.asked


@pytest.mark.parametrize("num_slots", [1, 3])
@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
def test_the_captions_are_plain_decodings_own(agreement, num_slots):
    """Whatever is chosen: rows join while nothing is drafted, and drafts catch up in between."""
    rows, _ = timed(agreement, num_slots, 30)
    plain = decode_plainly(ScriptedSession(SCRIPT, 1, 100), prompts(30), STOP)
    assert [row.token_ids for row in rows] == [row.token_ids for row in plain]


@pytest.mark.parametrize("num_slots", [1, 3])
def test_an_adversarial_draft_is_asked_no_more(num_slots):
    rows, asked = timed(0.0, num_slots, 60)
    late = asked[len(asked) // 2 :]
    assert late.count(0) > 0.85 * len(late)
    assert max(late) > 0, "a trial now and then"
    assert sum(row.stats.drafted_tokens for row in rows) < 0.15 * sum(
        row.stats.output_tokens for row in rows
    )


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_perfect_draft_is_asked_for_many(num_slots):
    rows, asked = timed(1.0, num_slots, 60)
    late = asked[len(asked) // 2 :]
    assert sum(late) / len(late) > 0.6 * MAX_TOKENS
    assert sum(row.stats.target_steps for row in rows) < 0.4 * sum(
        row.stats.output_tokens for row in rows
    )


@pytest.mark.parametrize("drafter", ["model", "ngram"])
@pytest.mark.parametrize("agreement", [0.0, 0.7])
def test_the_engine_on_its_own_clock_says_the_same(drafter, agreement):
    """Whatever the machine's speed, exact speculation gives plain decoding's captions."""

    def captions(**speculation):
        engine = CaptionEngine(
            ScriptedVideoLM(SCRIPT),
            ScriptedVideoLM(replace(SCRIPT, agreement=agreement)),
            GenerationConfig(max_tokens=40, max_num_seqs=3),
            SpeculationConfig.model_validate(speculation),
        )
        requests = [CaptionRequest(str(n), p, p) for n, p in enumerate(prompts(20))]
        return [caption.token_ids for caption in engine.caption(requests)]

    drafting = {"drafter": drafter, "adaptive": True}
    assert captions(method="exact", drafting=drafting) == captions(method="none")

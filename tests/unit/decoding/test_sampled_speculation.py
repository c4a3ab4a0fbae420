"""Guards lossless sampling through the loop: sampled drafts, rules and refills (invariant 8)."""

import itertools

import pytest
import torch

from pipeline.config import GenerationConfig
from pipeline.decoding.inflight import InFlightBatch
from pipeline.decoding.length_policy import FixedLength
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.ngram_proposer import NgramProposer
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodingJob, StopRule
from pipeline.decoding.rules import Rules, Vocabulary
from pipeline.models.scripted import Script, ScriptedSession, scripted_prompt
from pipeline.speculation_config import SpeculationConfig
from tests.decoding import draft_inputs

V = 4  # id 0 is the script's end: never said here, so three tokens are in use
NUM_CAPTIONS = 2000
CHI_SQUARE_LIMIT = 54.05  # 26 degrees of freedom: P(chi-square > 54.05) = 0.001
STOP = StopRule(frozenset(), max_tokens=3)


class TableSession(ScriptedSession):
    """Logits by the newest two tokens: a small model whose distribution is known."""

    def __init__(self, seed):
        super().__init__(Script(vocab_size=V), num_slots=4, max_length=16)
        self.seed = seed

    def _logits(self, prompt, token_ids):
        return table(token_ids, self.seed)


def table(token_ids, seed):
    place = sum((i + 1) * (t + 1) for i, t in enumerate(token_ids[-2:]))
    logits = torch.randn(V, generator=torch.Generator().manual_seed(seed + 7 * place)) * 1.2
    logits[0] = -torch.inf
    return logits


def proposer(drafter):
    if drafter == "model":
        return ModelProposer(TableSession(100), draft_inputs, frozenset(), temperature=1.0, seed=5)
    return NgramProposer(frozenset(), longest=1, shortest=1, remembers=False)


@pytest.mark.parametrize("drafter", ["none", "model", "ngram"])
def test_captions_are_distributed_as_the_targets_own(drafter):
    rules = Rules(
        SpeculationConfig(num_speculative_tokens=2),
        GenerationConfig(temperature=1.0, seed=5),
        Vocabulary((), frozenset(), frozenset()),
    )
    batch = InFlightBatch(
        TableSession(0),
        STOP,
        max_num_batched_tokens=8,
        proposer=None if drafter == "none" else proposer(drafter),
        lengths=FixedLength(0 if drafter == "none" else 2),
        greedy=False,
    )
    inputs = scripted_prompt([2])
    jobs = [
        DecodingJob(CaptionRequest(f"clip {n}", inputs, inputs), rules.exact)
        for n in range(NUM_CAPTIONS)
    ]
    counts = dict.fromkeys(itertools.product(range(1, V), repeat=3), 0)
    for _, row in batch.decode(jobs):
        counts[row.token_ids] += 1
    chi_square = 0.0
    for tokens, count in counts.items():
        p = 1.0
        for j, token in enumerate(tokens):
            p *= float(table(tokens[:j], 0).softmax(-1)[token])
        chi_square += (count - NUM_CAPTIONS * p) ** 2 / (NUM_CAPTIONS * p)
    assert chi_square < CHI_SQUARE_LIMIT

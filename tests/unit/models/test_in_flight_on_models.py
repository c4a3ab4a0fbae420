"""Guards the in-flight loop on real models of both families (docs/method.md, invariants 5, 6)."""

import pytest

from pipeline.config import GenerationConfig, PromptConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.session import TransformersSession
from pipeline.speculation_config import SpeculationConfig
from tests.decoding import decode, decode_plainly, in_flight
from tests.tiny_models import tiny_clip

CASES = [
    (tiny_clip(num_frames=frames, seed=seed), PromptConfig(text=text))
    for seed, (frames, text) in enumerate(
        [(4, "the dog"), (8, "what happens ?"), (2, "the car"), (6, "describe"), (1, "a person")]
    )
]
MAX_TOKENS = 18
MAX_LENGTH = 160
STOP = StopRule(frozenset(), MAX_TOKENS)


def requests(pair):
    return [
        CaptionRequest(str(n), pair.target.prepare(*case), pair.draft.prepare(*case))
        for n, case in enumerate(CASES)
    ]


@pytest.fixture(scope="module")
def alone(pair):
    """Each clip's own caption: plain, solo, its prompt read at one go."""
    session = pair.target.open_session(1, MAX_LENGTH)
    return [decode_plainly(session, [r.target], STOP)[0].token_ids for r in requests(pair)]


@pytest.mark.parametrize("k", [0, 3])
def test_refills_and_chunks_change_nothing(pair, alone, k):
    """Two slots, five clips of unequal length, prompts read by 7 tokens, in another order."""
    target = pair.target.open_session(2, MAX_LENGTH)
    draft = pair.draft.open_session(2, MAX_LENGTH) if k else None
    order = [3, 0, 4, 2, 1]
    clips = requests(pair)
    rows = decode(in_flight(target, draft, STOP, k, 7), [clips[n] for n in order])
    assert [row.token_ids for row in rows] == [alone[n] for n in order]


def test_after_every_round_the_next_logits_are_those_of_a_fresh_forward(pair, monkeypatch):
    """Invariant 5: whatever was rejected and refilled, the cache is the committed tokens."""
    worst = []

    class Checked(TransformersSession):
        def forward(self, slots, token_ids):
            starts = [self.cached_length(slot) for slot in slots]
            output = super().forward(slots, token_ids)
            for row, (slot, start, tokens) in enumerate(zip(slots, starts, token_ids)):
                inputs, said = self.rows[slot]
                del said[start - inputs.num_tokens :]  # what the loop rolled back
                said.extend(tokens)
                fresh = pair.target.open_session(1, MAX_LENGTH)
                fresh.prefill(0, inputs)
                logits = fresh.forward([0], [said]).logits[0, -1]
                worst.append(float((output.logits[row, len(tokens) - 1] - logits).abs().max()))
            return output

        def start_prefill(self, slot, inputs):
            self.rows = getattr(self, "rows", {}) | {slot: (inputs, [])}
            super().start_prefill(slot, inputs)

    target = pair.target.open_session(2, MAX_LENGTH)
    target.__class__ = Checked
    draft = pair.draft.open_session(2, MAX_LENGTH)
    rows = decode(in_flight(target, draft, StopRule(frozenset(), 8), 3, 16), requests(pair))
    assert len(worst) == sum(row.stats.target_steps for row in rows)
    assert max(worst) < 1e-3
    assert any(row.stats.accepted_tokens < row.stats.drafted_tokens for row in rows)


@pytest.mark.parametrize(
    "drafting",
    [
        {"keep_ratio": 0.25},
        {"drafter": "self", "keep_ratio": 0.5},
        {"drafter": "ngram", "prompt_lookup_min": 1},
        {"confidence_threshold": 0.3},
    ],
)
def test_exact_drafts_of_any_kind_are_lossless(pair, drafting):
    generation = GenerationConfig(max_tokens=MAX_TOKENS, max_num_seqs=2, max_num_batched_tokens=32)

    def captioned(**speculation):
        engine = CaptionEngine(
            pair.target, pair.draft, generation, SpeculationConfig.model_validate(speculation)
        )
        return [caption.token_ids for caption in engine.caption(requests(pair))]

    assert captioned(drafting=drafting) == captioned(method="none")

"""Lossless sampling: the joint distribution of three tokens, against exact enumeration."""

import itertools

import pytest
import torch

from pipeline.config import GenerationConfig
from pipeline.decoding import sampling
from pipeline.decoding.acceptance import VerifiedBlock
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.rules import Rules, Vocabulary
from pipeline.decoding.session import PrefillOutput
from pipeline.models.scripted import scripted_prompt
from pipeline.speculation_config import SpeculationConfig

V = 3
NUM_CAPTIONS = 4000
# 26 degrees of freedom: P(chi-square > 54.05) = 0.001.
CHI_SQUARE_LIMIT = 54.05


def next_logits(prefix, seed):
    """Logits [V] that depend on the last two tokens: a model as a table."""
    generator = torch.Generator().manual_seed(
        seed + 7 * sum((i + 1) * (t + 1) for i, t in enumerate(prefix[-2:]))
    )
    return torch.randn(V, generator=generator) * 1.2


def caption(rule, drafting):
    """Three tokens, decoded in blocks of two drafted ones as the loop does."""
    out = [rule(VerifiedBlock((), (0,), next_logits([], 0)[None])).next_token]
    while len(out) < 3:
        drafted, probs = [], []
        for _ in range(2):
            q = next_logits([*out, *drafted], 100).softmax(-1)
            drafted.append(int(torch.multinomial(q, 1, generator=drafting)))
            probs.append(q)
        logits = torch.stack([next_logits([*out, *drafted[:j]], 0) for j in range(3)])
        block = VerifiedBlock(
            drafted, logits.argmax(-1).tolist(), logits, draft_probs=torch.stack(probs)
        )
        acceptance = rule(block)
        out += [*drafted[: acceptance.num_accepted], acceptance.next_token]
    return tuple(out[:3])


def chi_square():
    rules = Rules(
        SpeculationConfig(num_speculative_tokens=2),
        GenerationConfig(temperature=1.0, seed=5),
        Vocabulary((), frozenset(), frozenset()),
    )
    counts = dict.fromkeys(itertools.product(range(V), repeat=3), 0)
    drafting = torch.Generator().manual_seed(1)
    for number in range(NUM_CAPTIONS):
        request = CaptionRequest(f"clip {number}", scripted_prompt([2]), None)
        counts[caption(rules.exact(request, PrefillOutput(torch.zeros(V))), drafting)] += 1
    total = 0.0
    for tokens, count in counts.items():
        p = 1.0
        for j, token in enumerate(tokens):
            p *= float(next_logits(tokens[:j], 0).softmax(-1)[token])
        total += (count - NUM_CAPTIONS * p) ** 2 / (NUM_CAPTIONS * p)
    return total


def test_captions_are_distributed_as_the_targets_own():
    assert chi_square() < CHI_SQUARE_LIMIT


def test_a_broken_residual_is_detected(monkeypatch):
    """The same test must fail when rejected tokens are drawn again from p itself."""
    monkeypatch.setattr(sampling, "residual", lambda p, q: p)
    assert chi_square() > CHI_SQUARE_LIMIT


def test_a_clip_draws_the_same_in_every_process():
    one = torch.rand(3, generator=sampling.seeded_generator(1, "a"))
    assert torch.equal(one, torch.rand(3, generator=sampling.seeded_generator(1, "a")))
    assert not torch.equal(one, torch.rand(3, generator=sampling.seeded_generator(1, "b")))


def test_the_residual_of_equal_distributions_is_the_target():
    p = torch.tensor([0.2, 0.8])
    assert torch.equal(sampling.residual(p, p), p)
    assert sampling.residual(p, torch.tensor([0.5, 0.5])).tolist() == pytest.approx([0.0, 0.3])

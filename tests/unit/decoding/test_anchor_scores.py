"""Anchor scores: planted cases, scale, more neighbours than tokens, prompts without a video."""

import math

import pytest
import torch

from pipeline.decoding.acceptance import VerifiedBlock
from pipeline.decoding.anchor_scores import (
    attention_score,
    combined_score,
    cosine_score,
    entropy_score,
    lexicon_score,
    log_odds,
    margin_score,
    random_score,
)
from pipeline.speculation_config import AnchorState

STATES = list(AnchorState)
VISUAL = torch.eye(6)[:3] * 5


def block(states=None, attention=None, drafted=(1, 2), choices=(1, 3, 4)):
    return VerifiedBlock(drafted, choices, torch.zeros(3, 8), states, attention)


def test_the_state_that_looks_like_the_video_ranks_first():
    states = torch.stack([torch.eye(6)[5], torch.eye(6)[0], torch.eye(6)[4]])
    predicting = cosine_score(VISUAL, 1, AnchorState.PREDICTING)(block(states))
    assert predicting == pytest.approx([0.0, 1.0])
    assert cosine_score(VISUAL, 1, AnchorState.TOKEN)(block(states)) == pytest.approx([1.0, 0.0])
    assert cosine_score(VISUAL, 1, AnchorState.EITHER)(block(states)) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("state", STATES)
def test_scale_does_not_matter(state):
    states = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    scores = cosine_score(VISUAL, 2, state)(block(states))
    assert cosine_score(VISUAL * 7, 2, state)(block(states * 0.01)) == pytest.approx(scores)


def test_more_neighbours_than_video_tokens():
    states = torch.eye(6)[[0, 1, 2]]
    assert cosine_score(VISUAL, 10, AnchorState.TOKEN)(block(states)) == pytest.approx([1 / 3] * 2)


def test_attention_by_state():
    attention = torch.tensor([0.1, 0.5, 0.2])
    scores = [attention_score(True, state)(block(attention=attention)) for state in STATES]
    assert [list(s) for s in scores] == [
        pytest.approx([0.1, 0.5]),
        pytest.approx([0.5, 0.2]),
        pytest.approx([0.5, 0.5]),
    ]


def test_the_lexicon_looks_at_both_tokens():
    """A draft that invents a detail is as harmful as one that misses it."""
    lexicon = [0.0, 0.1, 0.9, 0.2, 0.0]
    assert lexicon_score(lexicon, True)(block(drafted=(2, 3), choices=(1, 2, 0))) == [0.9, 0.9]
    assert lexicon_score(lexicon, True)(block(drafted=(1, 1), choices=(4, 1, 0))) == [0.1, 0.1]


def test_the_context_corrects_the_lexicon():
    prior = lexicon_score([log_odds(0.5)] * 8, True)
    attention = attention_score(True, AnchorState.PREDICTING)
    scores = combined_score(prior, attention, mean=0.5, scale=0.25)(
        block(attention=torch.tensor([1.0, 0.0, 0.0]))
    )
    assert scores == pytest.approx([2.0, -2.0])


def test_the_margin_is_the_log_ratio_of_the_two_tokens():
    """Nothing where the draft is right; else log p(target's own) - log p(drafted)."""
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    drafted, choices = (1, 2), (1, 5, 0)
    log_p = logits.log_softmax(-1)
    scores = margin_score(True)(VerifiedBlock(drafted, choices, logits))
    assert scores == pytest.approx([0.0, float(log_p[1, 5] - log_p[1, 2])], abs=1e-5)


def test_entropy_and_chance_are_controls():
    sure = torch.zeros(3, 8)
    sure[0, 1] = 50.0
    certain = VerifiedBlock((1, 2), (1, 3, 4), sure)
    assert entropy_score(True)(certain) == pytest.approx([0.0, math.log(8)], abs=1e-4)
    assert random_score(True, 3)(certain) == random_score(True, 3)(certain)
    assert random_score(True, 3)(certain) != random_score(True, 4)(certain)


@pytest.mark.parametrize(
    "score",
    [
        cosine_score(None, 10, AnchorState.EITHER),
        attention_score(False, AnchorState.TOKEN),
        lexicon_score([0.0] * 8, False),
        margin_score(False),
        combined_score(lexicon_score([0.0] * 8, False), margin_score(False), 1.0, 2.0),
        entropy_score(False),
        random_score(False, 0),
    ],
)
def test_without_a_video_everything_is_an_anchor(score):
    assert list(score(block())) == [math.inf, math.inf]

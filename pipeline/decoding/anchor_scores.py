"""How visual each drafted token is: a score for every slot of a block; high is an anchor.

Shapes: K drafted tokens of a block, V vocabulary, D hidden size, M visual tokens. The score of
slot j may look at row j of a block's states (*predicting*: it chose the target's token there) or at
row j + 1 (*token*: it has read the drafted one); docs/method.md, sections 3 and 3b.

A prompt without a video leaves nothing to be loose about: every slot then scores infinity, which
every scope takes for an anchor.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F

from pipeline.decoding.acceptance import VerifiedBlock
from pipeline.speculation_config import AnchorState

AnchorScore = Callable[[VerifiedBlock], Sequence[float]]
"""K scores of a block."""

_LEXICON_FLOOR = 1e-3
"""Keeps the log-odds of a lexicon entry finite."""


def always_anchor(block: VerifiedBlock) -> Sequence[float]:
    """The score where there is no video."""
    return [math.inf] * len(block.drafted)


def cosine_score(visual_states: torch.Tensor | None, top_n: int, state: AnchorState) -> AnchorScore:
    """The paper's: mean of the ``top_n`` largest cosines with visual_states [M, D]."""
    if visual_states is None:
        return always_anchor
    unit_visual = F.normalize(visual_states.float(), dim=-1).T
    num_nearest = min(top_n, unit_visual.shape[1])

    def score(block: VerifiedBlock) -> Sequence[float]:
        assert block.states is not None
        similarity = F.normalize(block.states.float(), dim=-1) @ unit_visual
        nearest = similarity.topk(num_nearest, dim=-1, sorted=False).values
        return of_state(nearest.mean(-1).tolist(), state)

    return score


def attention_score(has_video: bool, state: AnchorState) -> AnchorScore:
    """The share of attention that goes to the video at the tapped layer."""
    if not has_video:
        return always_anchor

    def score(block: VerifiedBlock) -> Sequence[float]:
        assert block.visual_attention is not None
        return of_state(block.visual_attention.tolist(), state)

    return score


def margin_score(has_video: bool) -> AnchorScore:
    """By how many nats the target finds its own token likelier than the drafted one; 0 if equal.

    It knows nothing of the video either, but of what the video says the target is sure: there the
    margin of a wrong word is wide, between two wordings it is narrow.
    """
    if not has_video:
        return always_anchor

    def score(block: VerifiedBlock) -> Sequence[float]:
        scores = [0.0] * len(block.drafted)
        # Only where the two differ, all in one look-up: each call of torch takes microseconds.
        places = [j for j, token in enumerate(block.drafted) if token != block.choices[j]]
        if places:
            tokens = [block.choices[j] for j in places] + [block.drafted[j] for j in places]
            values = block.logits[places * 2, tokens].tolist()
            for j, own, drafted in zip(places, values, values[len(places) :]):
                scores[j] = own - drafted
        return scores

    return score


def lexicon_score(lexicon: Sequence[float], has_video: bool) -> AnchorScore:
    """How much the video matters to the drafted word or to the target's own, whichever is more.

    Both, since a draft that invents a detail is as harmful as one that misses it. ``lexicon`` [V],
    or anything that grows with it.
    """
    if not has_video:
        return always_anchor

    def score(block: VerifiedBlock) -> Sequence[float]:
        return [
            max(lexicon[drafted], lexicon[choice])
            for drafted, choice in zip(block.drafted, block.choices)
        ]

    return score


def combined_score(
    prior: AnchorScore, contextual: AnchorScore, mean: float, scale: float
) -> AnchorScore:
    """The prior (log-odds of the lexicon's value) plus the contextual score less mean, by scale.

    The lexicon knows words, the context tells "to the right" from "right away". Sums of log-odds
    are what independent evidence asks for; the two are not quite independent, so this is a
    heuristic, its scale is calibrated, and it is measured like any score.
    """

    def score(block: VerifiedBlock) -> Sequence[float]:
        return [
            word + (context - mean) / scale
            for word, context in zip(prior(block), contextual(block))
        ]

    return score


def log_odds(value: float) -> float:
    """Of a probability, kept within finite bounds; infinity stays."""
    if math.isinf(value):
        return value
    bounded = min(max(value, _LEXICON_FLOOR), 1 - _LEXICON_FLOOR)
    return math.log(bounded / (1 - bounded))


def entropy_score(has_video: bool) -> AnchorScore:
    """The target's entropy in nats: a control that knows nothing of the video."""
    if not has_video:
        return always_anchor

    def score(block: VerifiedBlock) -> Sequence[float]:
        log_p = block.logits[: len(block.drafted)].float().log_softmax(-1)
        entropy: list[float] = (-(log_p.exp() * log_p).sum(-1)).tolist()
        return entropy

    return score


def random_score(has_video: bool, seed: int) -> AnchorScore:
    """Chance: the control that shows what a score earns. The same for a row in any batch."""
    if not has_video:
        return always_anchor
    draw = random.Random(seed).random
    return lambda block: [draw() for _ in block.drafted]


def of_state(values: Sequence[float], state: AnchorState) -> Sequence[float]:
    """Scores of K slots from the values of K + 1 rows."""
    if state is AnchorState.PREDICTING:
        return values[:-1]
    if state is AnchorState.TOKEN:
        return values[1:]
    return [max(pair) for pair in pairwise(values)]

"""Which drafted tokens are kept: pure rules over one verified block of one row.

Shapes: K drafted tokens of this block, V vocabulary, D hidden size of the tapped layer.

A rule is a function of the block alone; the decoding loop knows nothing of why a token was kept. A
rule that needs something of the prompt (its visual states, say) is made per row from the prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import PrefillOutput


class TokenKind(StrEnum):
    """Why a drafted token was kept."""

    EXACT = "exact"
    RELAXED = "relaxed"
    SHIFTED = "shifted"


class RejectionCause(StrEnum):
    """Why the first token that was not kept was rejected."""

    MISMATCH = "mismatch"
    ANCHOR = "anchor"
    GUARD = "guard"
    FLOOR = "floor"
    DEFERRED = "deferred"
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True, eq=False)
class VerifiedBlock:
    """One row's drafted tokens and what the target says of them.

    drafted: K ids; choices: K + 1 greedy target ids, ``choices[j]`` in place of ``drafted[j]`` and
    the last one after the whole block; logits [K + 1, V]; states [K + 1, D] and visual_attention
    [K + 1] of the tapped layers, None when not tapped. Row j of them saw the block up to and
    without ``drafted[j]``. draft_probs [K, V] are what sampled drafts were drawn from, None for
    greedy ones.
    """

    drafted: Sequence[int]
    choices: Sequence[int]
    logits: torch.Tensor
    states: torch.Tensor | None = None
    visual_attention: torch.Tensor | None = None
    draft_probs: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The verdict on one block: the kept prefix, token by token, and what ended it.

    ``rejected_by`` is None when the whole block was kept. ``num_anchors`` counts the drafted tokens
    that a loose rule held to an exact match because they carry what was seen. ``scores`` are the
    anchor scores of all K drafted tokens and ``ranks`` their rank quantiles (0 to 1, 1 the most
    visual), empty for rules without. ``next_token`` is the token that follows the kept ones where
    that is not the greedy ``choices[num_accepted]`` (sampling).
    """

    kinds: tuple[TokenKind, ...]
    rejected_by: RejectionCause | None
    num_anchors: int = 0
    scores: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()
    next_token: int | None = None

    @property
    def num_accepted(self) -> int:
        """Drafted tokens kept."""
        return len(self.kinds)


AcceptanceRule = Callable[[VerifiedBlock], Acceptance]
RowRule = Callable[[CaptionRequest, PrefillOutput], AcceptanceRule]


def accept_exact(block: VerifiedBlock) -> Acceptance:
    """Keep the drafted tokens up to the first that is not the target's own greedy choice.

    Lossless: with any draft the output is the target's greedy output.
    """
    num_accepted = 0
    for drafted, choice in zip(block.drafted, block.choices):
        if drafted != choice:
            return Acceptance((TokenKind.EXACT,) * num_accepted, RejectionCause.MISMATCH)
        num_accepted += 1
    return Acceptance((TokenKind.EXACT,) * num_accepted, None)


def exact_rule(request: CaptionRequest, prefill: PrefillOutput) -> AcceptanceRule:
    """The lossless rule, which needs nothing of the prompt."""
    del request, prefill
    return accept_exact

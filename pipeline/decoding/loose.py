"""Loose acceptance of one block: which mismatches pass, and the walk that decides (method.md, 4).

Shapes: K drafted tokens, V vocabulary.

First every mismatch gets an *objection*, the cause for which it would be rejected, or none. Then
one walk over the block decides, position shifts included. Objections only ever shrink when lambda
grows, and the walk keeps the longest prefix that they allow: so the number of accepted tokens never
falls when lambda grows or when shifts are tolerated.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from pipeline.decoding.acceptance import RejectionCause, TokenKind, VerifiedBlock

Objections = dict[int, RejectionCause | None]
"""For the position of each mismatch: what speaks against the drafted token there."""


def mismatches(block: VerifiedBlock) -> list[int]:
    """Positions where the drafted token is not the target's own, ascending."""
    return [j for j, token in enumerate(block.drafted) if token != block.choices[j]]


@dataclass(frozen=True, slots=True)
class Shifts:
    """Position-shift tolerance: a token may be said up to ``window`` positions early.

    Objections in ``never`` can't be cured by it.
    """

    window: int
    never: Set[RejectionCause] = frozenset()


NO_SHIFTS = Shifts(0)


def walk(
    block: VerifiedBlock, objections: Objections, eos_token_ids: Set[int], shifts: Shifts
) -> tuple[tuple[TokenKind, ...], RejectionCause | None]:
    """The kinds of the longest prefix that can be kept, and what ended it (None: nothing did).

    A drafted token that meets an objection is kept all the same if the target's choice comes within
    the next ``shifts.window`` drafted tokens and that later one is kept too, in this same round.
    An accepted end of sequence ends the caption, so nothing after it counts.
    """
    drafted, choices = block.drafted, block.choices
    kinds: list[TokenKind] = []
    owed: list[tuple[int, int]] = []  # (shifted position, where its token comes)
    cause: RejectionCause | None = None
    for j, token in enumerate(drafted):
        if j not in objections:
            kinds.append(TokenKind.EXACT)
        elif objections[j] is None:
            kinds.append(TokenKind.RELAXED)
        else:
            later = _comes_later(drafted, choices[j], j, shifts.window)
            if later is None or objections[j] in shifts.never:
                cause = objections[j]
                break
            owed.append((j, later))
            kinds.append(TokenKind.SHIFTED)
        if token in eos_token_ids:
            break
    end = len(kinds)
    # A shifted token whose later one was not kept goes, and with it all after it: which may take
    # the later token of a shift before it.
    while broken := [j for j, later in owed if j < end <= later]:
        end = broken[0]
        cause = objections[end]
    return tuple(kinds[:end]), cause


def _comes_later(drafted: Sequence[int], choice: int, position: int, window: int) -> int | None:
    """The first place of ``choice`` within the window: the one that needs least to be kept."""
    for later in range(position + 1, min(position + window, len(drafted) - 1) + 1):
        if drafted[later] == choice:
            return later
    return None


def differs_again(positions: Sequence[int], window: int) -> set[int]:
    """The mismatches that another one follows within ``window`` positions.

    What lies beyond the block can't be seen and counts as agreement.
    """
    following = pairwise(positions)
    return {position for position, after in following if after - position <= window}


def below_floor(
    block: VerifiedBlock, positions: Sequence[int], epsilon: float, delta: float
) -> set[int]:
    """Positions where the target finds the drafted token too unlikely.

    Typical acceptance: p(drafted) must be above min(epsilon, delta * exp(-entropy)).
    """
    if not positions or epsilon == 0 or delta == 0:
        return set()
    log_p = block.logits[list(positions)].float().log_softmax(-1)
    drafted = [block.drafted[j] for j in positions]
    p_drafted = log_p[range(len(positions)), drafted].exp().tolist()
    # What is likelier than epsilon passes at any entropy: most do, and need none.
    doubtful = [row for row, p in enumerate(p_drafted) if p <= epsilon]
    if not doubtful:
        return set()
    log_p = log_p[doubtful]
    sharpness = (log_p.exp() * log_p).sum(-1).exp().tolist()  # exp(-entropy)
    return {
        positions[row]
        for row, sharp in zip(doubtful, sharpness)
        if p_drafted[row] <= min(epsilon, delta * sharp)
    }


def certain(block: VerifiedBlock, positions: Sequence[int], threshold: float) -> set[int]:
    """Positions where the target's three likeliest tokens have an entropy (nats) below threshold.

    As FLy's released code measures it: of the three probabilities, normalised to sum 1.
    """
    if not positions:
        return set()
    logits = block.logits[list(positions)].float()
    log_p = logits.topk(min(3, logits.shape[-1]), dim=-1).values.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return {j for j, low in zip(positions, (entropy < threshold).tolist()) if low}

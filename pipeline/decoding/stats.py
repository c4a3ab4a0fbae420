"""Counting one caption's decoding: rounds in, DecodingStats out.

Every emitted token is counted once (docs/method.md, invariant 10): ``exact + relaxed + shifted +
corrections + bonuses == output_tokens`` and ``drafted == accepted + wasted``. A *correction* is a
token that the target alone chose: the first token, which the prefill gives, the one after a
rejection, and every token of a round without a draft. A *bonus* follows a block kept whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.decoding.acceptance import Acceptance, TokenKind
from pipeline.records import DecodingStats


@dataclass(frozen=True, slots=True)
class Round:
    """One target step of one row.

    ``target_token`` tells whether the target's own token followed the kept ones: it does, except
    after an accepted end of sequence.
    """

    num_drafted: int
    acceptance: Acceptance
    target_token: bool

    @property
    def is_bonus(self) -> bool:
        """Whether the target's own token followed a drafted block kept whole."""
        whole = self.num_drafted > 0 and self.acceptance.num_accepted == self.num_drafted
        return self.target_token and whole

    @property
    def is_correction(self) -> bool:
        """Whether the target's own token stands where the draft was wrong, or had nothing."""
        return self.target_token and not self.is_bonus


@dataclass(slots=True)
class Seconds:
    """One row's wall-clock seconds; a step that several rows share is split evenly among them.

    So seconds add up: the sum over the rows of a batch is the time of the batch. ``decode_s`` is
    everything after the prefills: draft_s, verify_s, scoring_s (the acceptance rules), and the
    book-keeping between them. ``prefill_s`` is of the target's prompt and of the proposer's.
    """

    prefill_s: float = 0.0
    draft_s: float = 0.0
    verify_s: float = 0.0
    scoring_s: float = 0.0
    decode_s: float = 0.0


def summarise(
    rounds: Sequence[Round],
    seconds: Seconds,
    *,
    prompt_tokens: int,
    visual_tokens: int,
    max_drafted: int,
) -> DecodingStats:
    """Add up a caption's rounds; the first token, from the prefill, counts as a correction.

    ``max_drafted`` is the K of the run: the histogram has K + 1 entries whatever was accepted.
    """
    kinds = Counter(kind for r in rounds for kind in r.acceptance.kinds)
    accepted = Counter(r.acceptance.num_accepted for r in rounds)
    causes = Counter(r.acceptance.rejected_by for r in rounds if r.acceptance.rejected_by)
    corrections = 1 + sum(r.is_correction for r in rounds)
    bonuses = sum(r.is_bonus for r in rounds)
    return DecodingStats(
        prompt_tokens=prompt_tokens,
        visual_tokens=visual_tokens,
        output_tokens=kinds.total() + corrections + bonuses,
        target_steps=len(rounds),
        drafted_tokens=sum(r.num_drafted for r in rounds),
        accepted_tokens=kinds.total(),
        relaxed_tokens=kinds[TokenKind.RELAXED],
        shifted_tokens=kinds[TokenKind.SHIFTED],
        anchor_tokens=sum(r.acceptance.num_anchors for r in rounds),
        correction_tokens=corrections,
        bonus_tokens=bonuses,
        rejected_by_cause={str(cause): count for cause, count in sorted(causes.items())},
        accepted_histogram=tuple(accepted[length] for length in range(max_drafted + 1)),
        prefill_s=seconds.prefill_s,
        draft_s=seconds.draft_s,
        verify_s=seconds.verify_s,
        decode_s=seconds.decode_s,
        scoring_s=seconds.scoring_s,
    )

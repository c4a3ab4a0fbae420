"""The protocol between the decoding loop and what chooses how many tokens a round drafts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RoundObservation:
    """One round of all running rows: what was asked, what came of it, and what it took.

    asked is the policy's number. Per row that wanted drafts: drafted and accepted tokens. draft_s
    is the proposer's time (what it had to catch up on included), verify_s the target's, round_s all
    of the round. num_ended rows ended in it. Since the round before, the proposer took prompt_s to
    read prompts, of which num_prompts_read were completed.
    """

    num_rows: int
    asked: int
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]
    draft_s: float
    verify_s: float
    round_s: float
    num_ended: int = 0
    num_prompts_read: int = 0
    prompt_s: float = 0.0


class DraftLengthPolicy(Protocol):
    """Chooses K for a round of all rows."""

    @property
    def max_tokens(self) -> int:
        """The most that ``num_tokens`` ever says."""

    def num_tokens(self, num_rows: int) -> int:
        """Tokens to draft for each of ``num_rows`` rows in the next round; 0 is plain decoding.

        Asked several times a round, so it changes nothing; ``observe`` does.
        """

    def observe(self, observation: RoundObservation) -> None:
        """Learn from the round that was just done."""


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Always the same number."""

    max_tokens: int

    def num_tokens(self, num_rows: int) -> int:
        """K."""
        del num_rows
        return self.max_tokens

    def observe(self, observation: RoundObservation) -> None:
        """Nothing to learn."""


NO_DRAFTS = FixedLength(0)

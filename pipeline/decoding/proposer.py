"""The protocol between the decoding loop and what proposes tokens: a draft model, or earlier text.

Shapes: K proposed tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import PrefillOutput


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """Tokens to verify; probs [K, V] that they were drawn from when sampled, else None."""

    token_ids: tuple[int, ...]
    probs: torch.Tensor | None = None


NO_PROPOSAL = Proposal(())


class Proposer(Protocol):
    """Proposes the next tokens of rows, which it knows by the slot that they have in the target.

    A row's proposals depend on that row alone. They end with an end-of-sequence token at the
    latest. The loop tells every row's committed tokens with each call, so that what was rejected
    needs no message: a proposer drops what is not a prefix of them.
    """

    def admit(self, slot: int, request: CaptionRequest, prefill: PrefillOutput) -> None:
        """Take a row whose prompt the target has read."""

    def propose(
        self, slots: Sequence[int], committed: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Proposal]:
        """At most ``wanted[i]`` tokens after ``committed[i]`` (at least one token) of each row.

        A row that wants 0 gets none and costs nothing.
        """

    def release(self, slot: int) -> None:
        """Forget the row."""

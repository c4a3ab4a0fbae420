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

    token_ids: Sequence[int]
    probs: torch.Tensor | None = None


NO_PROPOSAL = Proposal(())


class Proposer(Protocol):
    """Proposes the next tokens of rows, which it knows by the slot that they have in the target.

    They end with an end-of-sequence token at the latest. The loop tells every row's committed
    tokens with each call, so that what was rejected needs no message: a proposer drops what is not
    a prefix of them. A row's proposals depend on that row alone, except where a proposer says
    otherwise.
    """

    def admit(self, slot: int, request: CaptionRequest, prefill: PrefillOutput) -> None:
        """Take a row whose prompt the target has read; cheap, nothing is read yet.

        Raises ValueError if the request lacks what the proposer needs.
        """

    def read_prompt(self, slot: int, max_tokens: int) -> tuple[int, bool]:
        """Read at most ``max_tokens`` (at least one) more of the row's prompt.

        Returns how many were read, and whether the row can be proposed for from now on.
        """

    def propose(
        self, slots: Sequence[int], committed: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Proposal]:
        """At most ``wanted[i]`` tokens after ``committed[i]`` (at least one token) of each row.

        A row that wants 0 gets none and costs nothing; its prompt need not have been read.
        """

    def release(self, slot: int, committed: Sequence[int]) -> None:
        """Forget the row, which ended with ``committed``."""

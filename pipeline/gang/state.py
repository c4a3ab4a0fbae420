"""What a rank has done, so short that ranks can compare it while they work."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch


class RankDivergenceError(RuntimeError):
    """Ranks that must do the same did not: captions from here on would be wrong."""


@dataclass(frozen=True, slots=True)
class RankState:
    """Calls of the model so far, tokens cached in all slots, and a digest of the newest choices.

    Choices, not logits: ranks on unlike GPUs may differ in the last bit of a logit.
    """

    num_calls: int
    cached_tokens: int
    digest: str

    @classmethod
    def of(cls, num_calls: int, lengths: list[int], logits: torch.Tensor | None) -> RankState:
        """``logits`` [..., V] of the newest call."""
        choices = [] if logits is None else logits.argmax(-1).flatten().tolist()
        content = repr((lengths, choices)).encode()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        return cls(num_calls, sum(lengths), digest)


def check_agreement(leader: RankState, others: Mapping[int, RankState]) -> None:
    """Raise RankDivergenceError unless all ranks are where rank 0 is."""
    for rank, state in others.items():
        if state != leader:
            raise RankDivergenceError(
                f"rank {rank} and rank 0 do not agree ({state} against {leader}): a fault of a "
                "GPU, of memory or of this program; the clips at work are captioned again"
            )

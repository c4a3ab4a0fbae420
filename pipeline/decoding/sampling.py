"""Speculation at a temperature: the lossless test and its residual (method.md, section 4).

Shapes: K drafted tokens, V vocabulary; p [K + 1, V] the target's probabilities, q [K, V] those that
the drafted tokens were drawn from.

A drafted token d is accepted with probability min(1, p(d) / q(d)); the first that is not is
replaced by a draw from norm(max(p - q, 0)), and after a block kept whole a bonus is drawn from
p[K]. Each emitted token is then distributed as the target's own (Leviathan et al., 2023).
"""

from __future__ import annotations

import hashlib

import torch

from pipeline.decoding.acceptance import VerifiedBlock


def seeded_generator(seed: int, clip_id: str) -> torch.Generator:
    """The randomness of one caption: the same in any batch, process and order."""
    digest = hashlib.blake2b(f"{seed}\0{clip_id}".encode(), digest_size=8).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest, "big") >> 1)
    return generator


def probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities [..., V] float32 of logits [..., V] at a temperature above 0."""
    return (logits.float() / temperature).softmax(-1)


class LosslessTest:
    """Tests drafted tokens of one block, one by one, and draws what follows."""

    def __init__(
        self, block: VerifiedBlock, temperature: float, generator: torch.Generator
    ) -> None:
        # On the CPU: the tests are sequential, and a row's draws must not depend on the device.
        self._p = probabilities(block.logits, temperature).cpu()
        self._q = None if block.draft_probs is None else block.draft_probs.float().cpu()
        self._drafted = block.drafted
        self._generator = generator

    def accepts(self, position: int) -> bool:
        """Whether the drafted token passes; draws one number."""
        token = self._drafted[position]
        p = float(self._p[position, token])
        # A draft that drew nothing (n-grams) is certain of its token.
        q = 1.0 if self._q is None else float(self._q[position, token])
        return float(torch.rand((), generator=self._generator)) * q < p

    def replacement(self, position: int) -> int:
        """The token in place of one that failed."""
        return self._draw(residual(self._p[position], self._draft_row(position)))

    def target_token(self, position: int) -> int:
        """A token of the target's own, such as the bonus."""
        return self._draw(self._p[position])

    def _draft_row(self, position: int) -> torch.Tensor:
        if self._q is not None:
            return self._q[position]
        certain = torch.zeros_like(self._p[position])
        certain[self._drafted[position]] = 1.0
        return certain

    def _draw(self, weights: torch.Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=self._generator))


def residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Unnormalised max(p - q, 0) [V]; p itself where rounding leaves nothing."""
    left = (p - q).clamp(min=0)
    return left if float(left.sum()) > 0 else p

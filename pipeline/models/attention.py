"""Attention of new tokens over cached ones, without repeating keys and values.

Shapes: B rows of the call, L new tokens of the longest, N cached tokens (the new ones included), Q
query heads, H key/value heads, G = Q / H query heads of one key/value head, D head size.

Grouped-query attention repeats each key/value head G times before the product. For a few new tokens
the queries of a group are folded into the query length instead, which reads the cache once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Above this many new tokens the repeated keys cost less than a mask repeated for each query head.
_MAX_FOLDED_LENGTH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """How one call attends, the same for all layers.

    ``mask`` is added to the scores: [B, 1, L * G, N] where queries are folded, [B, 1, L, N] else;
    None where every new token sees all cached ones, or, if ``causal``, those up to itself.
    """

    num_groups: int
    folded: bool
    causal: bool
    mask: torch.Tensor | None

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Queries [B, L, Q, D] over keys and values [B, H, N, D]; returns [B * L, Q * D]."""
        rows, length, num_heads, head_size = queries.shape
        if not self.folded:
            output = F.scaled_dot_product_attention(
                queries.transpose(1, 2),
                self._repeat(keys),
                self._repeat(values),
                attn_mask=self.mask,
                is_causal=self.causal,
            )
            return output.transpose(1, 2).reshape(rows * length, num_heads * head_size)
        folded = fold(queries, self.num_groups)
        output = F.scaled_dot_product_attention(folded, keys, values, attn_mask=self.mask)
        if length > 1:
            output = output.unflatten(2, (length, self.num_groups)).transpose(1, 2)
        return output.reshape(rows * length, num_heads * head_size)

    def weights(self, queries: torch.Tensor, keys: torch.Tensor, num_last: int) -> torch.Tensor:
        """What the last ``num_last`` new tokens pay to each cached one: [B, num_last, N] float32.

        A mean over query heads; each token's weights add up to 1. Of a prompt's first tokens only
        the very last one, which sees all, can be asked for.
        """
        if self.causal and num_last > 1:
            raise ValueError(f"weights of {num_last} of a prompt's first tokens")
        folded = fold(queries[:, -num_last:], self.num_groups).float()
        scores = folded @ keys.float().transpose(2, 3) * queries.shape[-1] ** -0.5
        if self.mask is not None and self.folded:
            scores += self.mask[:, :, -num_last * self.num_groups :]
        elif self.mask is not None:
            scores += self.mask[:, :, -num_last:].repeat_interleave(self.num_groups, dim=2)
        weights = scores.softmax(-1).unflatten(2, (num_last, self.num_groups))
        return weights.mean(dim=(1, 3))

    def _repeat(self, cached: torch.Tensor) -> torch.Tensor:
        """[B, H, N, D] to [B, Q, N, D]."""
        rows, num_heads, length, head_size = cached.shape
        repeated = cached[:, :, None].expand(-1, -1, self.num_groups, -1, -1)
        return repeated.reshape(rows, num_heads * self.num_groups, length, head_size)


def plan_attention(
    seen: torch.Tensor | None, length: int, num_groups: int, dtype: torch.dtype
) -> Attention:
    """The attention of a call of ``length`` new tokens a row.

    ``seen`` [B, 1, L, N] bool is the cache's mask; None: one new token sees all, several are a
    prompt's first ones.
    """
    folded = length == 1 or (seen is not None and length <= _MAX_FOLDED_LENGTH)
    causal = seen is None and length > 1
    mask = None
    if seen is not None:
        # Added, not bool: torch would convert a bool mask again in every layer.
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = mask.masked_fill_(~seen, float("-inf"))
        if folded and length > 1:
            mask = mask.repeat_interleave(num_groups, dim=2)
    return Attention(num_groups, folded, causal, mask)


def fold(queries: torch.Tensor, num_groups: int) -> torch.Tensor:
    """[B, L, Q, D] to [B, H, L * G, D], a view where there is one token or one head."""
    rows, length, num_heads, head_size = queries.shape
    if length == 1:
        return queries.reshape(rows, num_heads // num_groups, num_groups, head_size)
    grouped = queries.unflatten(2, (num_heads // num_groups, num_groups)).transpose(1, 2)
    return grouped.reshape(rows, num_heads // num_groups, length * num_groups, head_size)

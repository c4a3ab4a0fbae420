"""Drafting on fewer video tokens: which of a prompt's tokens the draft still reads.

Shapes: T prompt tokens, M visual tokens among them. Survivors keep their original positions (all
three axes): positions were built on the full prompt and are only indexed here (SpecVLM, arXiv
2508.16201; docs/method.md, sections 5 and 7).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.decoding.session import ModelInputs
from pipeline.speculation_config import PruningPolicy


def num_kept(num_visual_tokens: int, keep_ratio: float) -> int:
    """Visual tokens that survive: the nearest number to the share, at least one of any."""
    return min(num_visual_tokens, max(1, round(keep_ratio * num_visual_tokens)))


def pruned_length(inputs: ModelInputs, keep_ratio: float) -> int:
    """Tokens of the prompt after pruning."""
    num_visual = inputs.num_visual_tokens
    return inputs.num_tokens - num_visual + num_kept(num_visual, keep_ratio)


def prune(
    inputs: ModelInputs,
    keep_ratio: float,
    policy: PruningPolicy,
    attention: torch.Tensor | None = None,
) -> ModelInputs:
    """The prompt without some of its visual tokens; the text is untouched.

    uniform keeps tokens evenly spread over the M in their order; attention keeps those of the most
    ``attention`` [M], which is the target's. A ``keep_ratio`` of 1 returns ``inputs`` themselves.
    Raises ValueError if the policy needs an attention that is not there or not of this video.
    """
    num_visual = inputs.num_visual_tokens
    kept = num_kept(num_visual, keep_ratio)
    if keep_ratio >= 1 or kept == num_visual:
        return inputs
    if inputs.kept_visual is not None:
        raise ValueError("the prompt is pruned already")
    if policy is PruningPolicy.ATTENTION:
        if attention is None or len(attention) != num_visual:
            had = "none" if attention is None else str(len(attention))
            raise ValueError(f"pruning {num_visual} visual tokens by attention, but there is {had}")
        chosen = attention.topk(kept).indices.cpu()
    else:
        chosen = spread_evenly(num_visual, kept)
    kept_visual = torch.zeros(num_visual, dtype=torch.bool)
    kept_visual[chosen] = True
    keep = torch.ones(inputs.num_tokens, dtype=torch.bool)
    keep[inputs.visual_mask.cpu()] = kept_visual
    return replace(
        inputs,
        token_ids=inputs.token_ids[keep],
        position_ids=inputs.position_ids[..., keep],
        visual_mask=inputs.visual_mask[keep],
        kept_visual=kept_visual,
    )


def spread_evenly(num_all: int, num_chosen: int) -> torch.Tensor:
    """``num_chosen`` different indices below ``num_all``: the middles of as many equal parts."""
    parts = torch.arange(num_chosen)
    return (2 * parts + 1) * num_all // (2 * num_chosen)

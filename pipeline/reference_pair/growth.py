"""Grow a small model into a large one that computes the same function.

Width: every hidden channel is duplicated. A weight that reads a duplicated pair splits its value
unevenly between the two copies, so that training can tell them apart. Depth: new layers add zero
to the residual stream until they learn otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from pipeline.reference_pair.architecture import ModelShape, build_model


@torch.no_grad()
def grow(
    small: Qwen2_5_VLForConditionalGeneration, small_shape: ModelShape, shape: ModelShape
) -> Qwen2_5_VLForConditionalGeneration:
    """Return a model of `shape` with the logits of `small` (to rounding), in fp32.

    `shape` must have twice the width and heads, the same number of key-value heads, at least
    twice the MLP width and no fewer layers; ValueError otherwise. Uses torch's generator.
    """
    if (
        shape.hidden != 2 * small_shape.hidden
        or shape.heads != 2 * small_shape.heads
        or shape.kv_heads != small_shape.kv_heads
        or shape.mlp < 2 * small_shape.mlp
        or shape.layers < small_shape.layers
    ):
        raise ValueError(f"cannot grow {small_shape} into {shape}")
    large = build_model(shape)
    tower, small_tower = large.model.visual, small.model.visual
    for name, value in small_tower.state_dict().items():
        copy = _twice(value) if name.startswith("merger.mlp.2") else value
        tower.state_dict()[name].copy_(copy)
    language, small_language = large.model.language_model, small.model.language_model
    language.embed_tokens.weight.copy_(_twice(small_language.embed_tokens.weight, dim=1))
    # The output head is tied to the embedding and reads both copies: half the norm undoes that.
    language.norm.weight.copy_(_twice(small_language.norm.weight) / 2)
    old_layers = _spread(small_shape.layers, shape.layers)
    for index, layer in enumerate(language.layers):
        if index in old_layers:
            _widen(layer, small_language.layers[old_layers[index]], small_shape)
        else:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    large.tie_weights()
    return large


def _spread(num_old: int, num_new: int) -> dict[int, int]:
    """Which new layer holds which old one: evenly spread, first and last included."""
    step = (num_new - 1) / max(1, num_old - 1)
    return {round(old * step): old for old in range(num_old)}


def _twice(weight: Tensor, dim: int = 0) -> Tensor:
    return torch.cat([weight, weight], dim=dim)


def _shared(weight: Tensor) -> Tensor:
    """Read both copies of the input [..., 2 * in], each with an uneven share of the weight."""
    share = torch.rand_like(weight) * 0.6 + 0.2
    return torch.cat([weight * share, weight * (1 - share)], dim=1)


def _widen(layer: Any, small: Any, shape: ModelShape) -> None:
    """Fill decoder layer `layer` from `small`, a layer of half its width and of `shape`."""
    for name in ("input_layernorm", "post_attention_layernorm"):
        getattr(layer, name).weight.copy_(_twice(getattr(small, name).weight))
    # Every query head appears twice, next to its twin, because both read the same key-value head.
    group = shape.heads // shape.kv_heads
    head_dim = shape.hidden // shape.heads
    heads = torch.arange(shape.heads).view(shape.kv_heads, 1, group).expand(-1, 2, -1).flatten()
    rows = (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()
    new, old = layer.self_attn, small.self_attn
    new.q_proj.weight.copy_(_shared(old.q_proj.weight[rows]))
    new.q_proj.bias.copy_(old.q_proj.bias[rows])
    for name in ("k_proj", "v_proj"):
        getattr(new, name).weight.copy_(_shared(getattr(old, name).weight))
        getattr(new, name).bias.copy_(getattr(old, name).bias)
    new.o_proj.weight.copy_(_twice(old.o_proj.weight[:, rows] / 2))
    width = shape.mlp
    for name in ("gate_proj", "up_proj"):
        weight = getattr(small.mlp, name).weight
        for copy in range(2):
            getattr(layer.mlp, name).weight[copy * width : (copy + 1) * width] = _shared(weight)
    layer.mlp.down_proj.weight.zero_()
    layer.mlp.down_proj.weight[:, : 2 * width] = _shared(_twice(small.mlp.down_proj.weight))

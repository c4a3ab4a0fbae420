"""A forward pass for training: equal to that of transformers, but with all clips in one batch.

The vision tower of transformers attends frame by frame in a loop; here all frames of all clips,
being equally large, are one batched attention call. Shapes: B clips, N caption tokens, P prompt
tokens, D hidden.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_position_ids

from pipeline.reference_pair.architecture import (
    GRID_THW,
    MERGE,
    NUM_VIDEO_TOKENS,
    PATCH_PX,
    PIXEL_MEAN,
    PIXEL_STD,
    TEMPORAL_PATCH,
    VIDEO_ID,
)

_PATCHES = GRID_THW[0] * GRID_THW[1] * GRID_THW[2]


def to_patches(frames: NDArray[np.uint8]) -> Tensor:
    """Turn frames, uint8 [B, T, H, W, 3], into normalised patches, float32 [B, 144, 600].

    The order is that of Qwen2-VL: merge blocks are contiguous, a patch is channel, time, row,
    column.
    """
    t, h, w = GRID_THW
    blocks = frames.transpose(0, 1, 4, 2, 3).reshape(
        -1, t, TEMPORAL_PATCH, 3, h // MERGE, MERGE, PATCH_PX, w // MERGE, MERGE, PATCH_PX
    )
    ordered = blocks.transpose(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(len(frames), _PATCHES, -1)
    pixels = torch.from_numpy(np.ascontiguousarray(ordered)).float()
    return (pixels / 255 - PIXEL_MEAN) / PIXEL_STD


def see(tower: Qwen2_5_VisionTransformerPretrainedModel, patches: Tensor) -> Tensor:
    """Run the vision tower: patches [B, 144, 600] to video tokens [B, 36, D]."""
    num_clips = len(patches)
    per_frame = GRID_THW[1] * GRID_THW[2]
    num_frames = num_clips * GRID_THW[0]
    hidden = F.linear(patches.flatten(0, 1), tower.patch_embed.proj.weight.flatten(1))
    cos, sin = _rotary_of_one_frame(tower)
    cos, sin = cos.repeat(num_frames, 1), sin.repeat(num_frames, 1)

    def by_frame(x: Tensor) -> Tensor:
        return x.view(num_frames, per_frame, *x.shape[1:]).transpose(1, 2)

    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden))
        query, key, value = qkv.view(len(hidden), 3, attention.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        mixed = F.scaled_dot_product_attention(by_frame(query), by_frame(key), by_frame(value))
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(len(hidden), -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden).view(num_clips, NUM_VIDEO_TOKENS, -1)


def _rotary_of_one_frame(
    tower: Qwen2_5_VisionTransformerPretrainedModel,
) -> tuple[Tensor, Tensor]:
    grid = torch.tensor([[1, *GRID_THW[1:]]])
    with torch.no_grad():
        cos, sin = tower.rotary_pos_emb(torch.zeros(1), get_vision_position_ids(grid, MERGE))
    return cos, sin


@functools.lru_cache(maxsize=256)
def _prompt_positions(
    model: Qwen2_5_VLForConditionalGeneration, prompt: tuple[int, ...], duration_s: float
) -> tuple[Tensor, int]:
    """Positions [3, P] of the prompt of a clip, and the position of the first caption token."""
    ids = torch.tensor([prompt])
    positions, delta = model.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == VIDEO_ID).int() * 2,
        video_grid_thw=torch.tensor([GRID_THW]),
        second_per_grid_ts=torch.tensor([duration_s / GRID_THW[0]]),
    )
    return positions[:, 0], len(prompt) + int(delta)


def caption_logits(
    model: Qwen2_5_VLForConditionalGeneration,
    patches: Tensor,
    durations_s: list[float],
    prompt: tuple[int, ...],
    captions: Tensor,
) -> Tensor:
    """Logits [B, N, V] that predict each token of `captions` [B, N] from all that is before it.

    Captions are padded on the right; what is predicted after a caption's end has no meaning.
    """
    num_clips, num_tokens = captions.shape
    ids = torch.cat([torch.tensor([prompt]).expand(num_clips, -1), captions], dim=1)
    positions = []
    for duration_s in durations_s:
        of_prompt, start = _prompt_positions(model, prompt, round(duration_s, 4))
        positions.append(
            torch.cat([of_prompt, torch.arange(start, start + num_tokens).expand(3, -1)], dim=1)
        )
    language = model.model.language_model
    embedded = language.embed_tokens(ids)
    first = prompt.index(VIDEO_ID)
    seen = see(model.model.visual, patches).to(embedded.dtype)
    embedded = torch.cat(
        [embedded[:, :first], seen, embedded[:, first + NUM_VIDEO_TOKENS :]], dim=1
    )
    hidden = language(
        inputs_embeds=embedded, position_ids=torch.stack(positions, dim=1), use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[:, len(prompt) - 1 : -1])

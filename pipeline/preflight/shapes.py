"""A model's sizes from its config: built on the meta device, where parameters have no memory."""

from __future__ import annotations

import re
from typing import Any

import torch

from pipeline.models.registry import family_of
from pipeline.preflight.memory import ModelSizes
from pipeline.preflight.vision import LlavaVisionSizes, QwenVisionSizes, VisionSizes

_SPLIT = re.compile(
    r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\."
)


def model_sizes(config: Any, dtype: str, name: str) -> ModelSizes:
    """Sizes of the model that a transformers config describes; ``name`` is for messages.

    Raises ModelLoadError for a family that is not supported.
    """
    model_class = family_of(config.model_type, name).model_class
    with torch.device("meta"):
        model = model_class(config)
    text = config.text_config
    split = norms = vision = 0
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith(("lm_head.", "model.language_model.embed_tokens.")):
            continue
        if _SPLIT.match(parameter_name):
            split += parameter.numel()
        elif parameter_name.startswith("model.language_model."):
            norms += parameter.numel()
        else:
            vision += parameter.numel()
    return ModelSizes(
        split_params=split,
        norm_params=norms,
        vision_params=vision,
        vocab_size=text.vocab_size,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        is_tied=bool(config.tie_word_embeddings),
        itemsize=getattr(torch, dtype).itemsize,
        vision=_vision_sizes(config),
    )


def _vision_sizes(config: Any) -> VisionSizes:
    vision = config.vision_config
    if config.model_type == "qwen2_5_vl":
        return QwenVisionSizes(
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            patch_px=vision.patch_size,
            merge=vision.spatial_merge_size,
            frames_per_patch=vision.temporal_patch_size,
        )
    return LlavaVisionSizes(
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        side_px=vision.image_size,
        patch_px=vision.patch_size,
    )

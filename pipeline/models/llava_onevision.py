"""LLaVA-OneVision: square frames, each pooled to a fixed number of tokens, plain positions.

Shapes: T prompt length, M visual tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from pipeline.decoding.session import ModelInputs
from pipeline.models.base import ClipInputError
from pipeline.models.transformers_model import TransformersVideoLM


class LlavaOnevision(TransformersVideoLM):
    """LLaVA-OneVision of any size."""

    model_type = "llava_onevision"
    model_class = LlavaOnevisionForConditionalGeneration

    def check_frames(self, shape: tuple[int, ...]) -> None:
        """Frames must be squares of the vision tower's one input size."""
        size = self.model.config.vision_config.image_size
        _, height, width, _ = shape
        if (height, width) != (size, size):
            raise ClipInputError(
                f"frames of {height}x{width} px: {self.model_id} takes {size}x{size} px "
                f"(video.frame_size.fixed_px: [{size}, {size}])"
            )

    def inputs_from(self, batch: Mapping[str, Any]) -> ModelInputs:
        """Positions [T]: the index in the prompt. The model gets no timestamps by design."""
        token_ids = batch["input_ids"][0]
        return ModelInputs(
            token_ids=token_ids,
            position_ids=torch.arange(len(token_ids)),
            visual_mask=token_ids == self.model.config.video_token_id,
            next_position=len(token_ids),
            vision={"pixel_values_videos": batch["pixel_values_videos"]},
        )

    def encode_video(self, vision: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Features [M, D] of the pooled frames, then one of the learned newline."""
        pixels = vision["pixel_values_videos"].to(self.model.device, self.model.dtype)
        features: torch.Tensor = self.model.get_video_features(pixels).pooler_output
        return features.flatten(0, 1)

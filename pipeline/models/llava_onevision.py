"""LLaVA-OneVision: square frames, each pooled to a fixed number of tokens, plain positions.

Shapes: T prompt length, M visual tokens, D hidden size.
"""

from __future__ import annotations

import math
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

    def num_video_units(self, vision: Mapping[str, torch.Tensor]) -> int:
        """Frames."""
        return int(vision["pixel_values_videos"].shape[1])

    def num_video_features(self, vision: Mapping[str, torch.Tensor]) -> int:
        """M: pooled patches of all frames, and one newline."""
        tower = self.model.config.vision_config
        pooled_side = math.ceil(tower.image_size // tower.patch_size / 2)
        return self.num_video_units(vision) * pooled_side**2 + 1

    def encode_units(
        self, vision: Mapping[str, torch.Tensor], start: int, stop: int
    ) -> torch.Tensor:
        """Features of the pooled frames; after the video's last one, one of the learned newline."""
        pixels = vision["pixel_values_videos"][:, start:stop]
        output = self.model.get_video_features(pixels.to(self.model.device, self.model.dtype))
        features: torch.Tensor = output.pooler_output.flatten(0, 1)
        return features if stop == self.num_video_units(vision) else features[:-1]

"""Qwen2.5-VL: frames in patches merged over space and time, three-axis rotary positions.

Shapes: T prompt length, M visual tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from pipeline.decoding.session import ModelInputs
from pipeline.models.base import ClipInputError
from pipeline.models.transformers_model import TransformersVideoLM


class Qwen25VL(TransformersVideoLM):
    """Qwen2.5-VL of any size and patch geometry."""

    model_type = "qwen2_5_vl"
    model_class = Qwen2_5_VLForConditionalGeneration
    # Says nothing as nothing is resized; unset, transformers warns of frames that cost too much.
    processor_options: ClassVar[Mapping[str, Any]] = {"cap_pixels_per_frame": False}

    def check_frames(self, shape: tuple[int, ...]) -> None:
        """Sides must be multiples of a merged patch."""
        vision = self.model.config.vision_config
        multiple = vision.patch_size * vision.spatial_merge_size
        _, height, width, _ = shape
        if height % multiple or width % multiple:
            raise ClipInputError(
                f"frames of {height}x{width} px: {self.model_id} takes multiples of {multiple} px "
                "(video.frame_size.multiple_of_px)"
            )

    def inputs_from(self, batch: Mapping[str, Any]) -> ModelInputs:
        """Positions [3, T]: time, row and column for the video, one running count for text.

        The temporal axis counts real time, ``tokens_per_second`` times the seconds that a pair of
        frames spans. Without the processor's ``mm_token_type_ids`` transformers would silently
        number the video like text.
        """
        token_types = batch.get("mm_token_type_ids")
        if token_types is None or not bool((token_types == 2).any()):
            raise RuntimeError(
                "the processor marked no video tokens (mm_token_type_ids); positions would be wrong"
            )
        positions, _ = self.model.model.get_rope_index(
            batch["input_ids"],
            mm_token_type_ids=token_types,
            video_grid_thw=batch["video_grid_thw"],
            second_per_grid_ts=batch["second_per_grid_ts"],
        )
        token_ids = batch["input_ids"][0]
        return ModelInputs(
            token_ids=token_ids,
            position_ids=positions[:, 0],
            visual_mask=token_ids == self.model.config.video_token_id,
            # After the prompt's last text token, as training and ``generate`` count. Not by
            # rope_deltas: those count from the largest position, which the temporal axis of a
            # long video can hold.
            next_position=int(positions[0, 0, -1]) + 1,
            vision={key: batch[key] for key in ("pixel_values_videos", "video_grid_thw")},
        )

    def num_video_units(self, vision: Mapping[str, torch.Tensor]) -> int:
        """Pairs of frames."""
        return int(vision["video_grid_thw"][0, 0])

    def num_video_features(self, vision: Mapping[str, torch.Tensor]) -> int:
        """M, of merged patches."""
        merge = self.model.config.vision_config.spatial_merge_size
        return int(vision["video_grid_thw"][0].prod()) // merge**2

    def encode_units(
        self, vision: Mapping[str, torch.Tensor], start: int, stop: int
    ) -> torch.Tensor:
        """Features of the merged patches of some pairs of frames; none attends to another pair."""
        _, height, width = vision["video_grid_thw"][0].tolist()
        per_unit = height * width
        grid = torch.tensor([[stop - start, height, width]], device=self.model.device)
        pixels = vision["pixel_values_videos"][start * per_unit : stop * per_unit]
        output = self.model.model.get_video_features(pixels.to(self.model.device), grid)
        return torch.cat(output.pooler_output)

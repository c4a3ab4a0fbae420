"""What a clip costs in a vision tower: visual tokens, and the most memory of encoding it.

Shapes: P patches, C values of a patch, D hidden size of the tower, I of its MLP, E hidden size
of the language model. ``itemsize`` is that of the weights, bytes.

The towers are transformers' own, and encode a clip in one call. The bounds count what is alive in
the widest place of a layer, no tensor freed early.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class VisionSizes(Protocol):
    """One family's tower."""

    def num_tokens(self, num_frames: int, frame_pixels: int) -> int:
        """Visual tokens of a clip in the prompt."""

    def activation_bytes(
        self, num_frames: int, frame_pixels: int, text_hidden: int, itemsize: int
    ) -> int:
        """Upper bound of encoding a clip, features included, bytes."""


@dataclass(frozen=True, slots=True)
class QwenVisionSizes:
    """Qwen2.5-VL: patches of some pixels and frames, ``merge`` x ``merge`` of them a token."""

    hidden: int
    intermediate: int
    patch_px: int
    merge: int
    frames_per_patch: int

    def num_tokens(self, num_frames: int, frame_pixels: int) -> int:
        """Whole merged patches; an odd frame is repeated."""
        per_group = frame_pixels // (self.patch_px * self.merge) ** 2
        return math.ceil(num_frames / self.frames_per_patch) * per_group

    def activation_bytes(
        self, num_frames: int, frame_pixels: int, text_hidden: int, itemsize: int
    ) -> int:
        """modeling_qwen2_5_vl.py: the wider of VisionAttention's rotary step and VisionMLP.

        ``apply_rotary_pos_emb_vision`` holds queries, keys, the first result, both products and the
        rotated half in float32 (6 P D), beside residual, norm, q, k and v (5 P D in the dtype).
        VisionMLP holds residual, norm (2 P D) and gate, activation, up, product (4 P I). Pixels are
        float32 and cast once.
        """
        tokens = self.num_tokens(num_frames, frame_pixels)
        patches = tokens * self.merge**2
        pixels = patches * 3 * self.frames_per_patch * self.patch_px**2 * (4 + itemsize)
        attention = patches * self.hidden * (5 * itemsize + 6 * 4)
        mlp = patches * itemsize * (2 * self.hidden + 4 * self.intermediate)
        return pixels + max(attention, mlp) + tokens * text_hidden * itemsize


@dataclass(frozen=True, slots=True)
class LlavaVisionSizes:
    """LLaVA-OneVision: SigLIP on frames of one size, pooled two by two, and one newline a clip."""

    hidden: int
    intermediate: int
    side_px: int
    patch_px: int

    def num_tokens(self, num_frames: int, frame_pixels: int) -> int:
        """196 a frame of 384 px; what size the frames have is the tower's matter."""
        del frame_pixels
        return num_frames * math.ceil(self._side / 2) ** 2 + 1

    def activation_bytes(
        self, num_frames: int, frame_pixels: int, text_hidden: int, itemsize: int
    ) -> int:
        """modeling_siglip.py and LlavaOnevisionModel.get_video_features.

        The chosen layer's states and the last (2 P D) are kept; beside them either a layer works
        (residual, norm, q, k, v, output twice: 7 P D; or 2 P D + 2 P I), or the projector and the
        pooling (2 P E). Then the newline is appended to the features. Pixels are float32 and cast
        once.
        """
        del frame_pixels
        patches = num_frames * self._side**2
        pixels = num_frames * 3 * self.side_px**2 * (4 + itemsize)
        states = 2 * patches * self.hidden
        layer = patches * (2 * self.hidden + max(5 * self.hidden, 2 * self.intermediate))
        projector = 2 * patches * text_hidden
        features = 2 * self.num_tokens(num_frames, 0) * text_hidden
        return pixels + itemsize * (states + max(layer, projector) + features)

    @property
    def _side(self) -> int:
        return self.side_px // self.patch_px

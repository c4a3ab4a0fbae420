"""Pixel budget -> frame size (pure): the arithmetic of Qwen2-VL's ``smart_resize``.

Frames are resized to the size the model's own processor would choose, before they leave the
decode process, so the processor's resize is the identity and no full-size frame is ever shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.config import FrameSizeConfig

_MIN_SHARE = 1.05


def frame_size(
    height_px: int, width_px: int, num_frames: int, config: FrameSizeConfig
) -> tuple[int, int]:
    """(height, width) in pixels of every frame of a clip of ``num_frames`` frames.

    A frame's share of ``max_total_pixels`` lowers ``max_pixels``, but not below ``min_pixels`` (and
    Qwen's 5 % above): a clip of too many frames for the budget keeps readable frames. ``fixed_px``
    wins over everything.
    """
    if config.fixed_px is not None:
        return config.fixed_px
    multiple, min_pixels = config.multiple_of_px, config.min_pixels
    share = max(config.max_total_pixels // num_frames, int(_MIN_SHARE * min_pixels))
    max_pixels = min(config.max_pixels, share)
    size = smart_resize(height_px, width_px, multiple, min_pixels, max_pixels)
    # Rounding down can end below the minimum, which the processor would then correct.
    return smart_resize(*size, multiple, min_pixels, config.max_pixels)


def smart_resize(
    height_px: int, width_px: int, multiple_of_px: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Nearest (height, width) that keeps the shape, in multiples, within [min, max] pixels.

    Where no size fits (a very narrow frame), the multiple wins over ``max_pixels``.
    """

    def in_multiples(side_px: float, rounding: Callable[[float], int]) -> int:
        return rounding(side_px / multiple_of_px) * multiple_of_px

    height, width = in_multiples(height_px, round), in_multiples(width_px, round)
    if height * width > max_pixels:
        shrink = math.sqrt(height_px * width_px / max_pixels)
        height = in_multiples(height_px / shrink, math.floor)
        width = in_multiples(width_px / shrink, math.floor)
    elif height * width < min_pixels:
        grow = math.sqrt(min_pixels / (height_px * width_px))
        height = in_multiples(height_px * grow, math.ceil)
        width = in_multiples(width_px * grow, math.ceil)
    return max(multiple_of_px, height), max(multiple_of_px, width)

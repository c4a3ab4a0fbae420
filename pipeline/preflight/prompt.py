"""The longest prompt that the configuration allows (pure arithmetic).

A clip has at most as many frames as its sampling policy takes, and a frame as many pixels as its
share of the budget. A clip of fewer frames has larger ones, so the longest prompt is looked for
among all numbers of frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config import (
    ClipPolicy,
    FrameSizeConfig,
    PromptConfig,
    SamplingPolicy,
    VideoConfig,
)
from pipeline.preflight.vision import VisionSizes

TEMPLATE_TOKENS = 64
"""Of the chat template: marks of turns and roles, and a default system message."""
WIDEST_SHAPE = 4.0
"""Longer by shorter side of a frame; a narrower one can be rounded up to more pixels."""
_MIN_SHARE = 1.05  # of frame_size.py


@dataclass(frozen=True, slots=True)
class Prompt:
    """The longest prompt of one model: the clip behind it, and its tokens."""

    num_frames: int
    frame_pixels: int
    visual_tokens: int
    text_tokens: int

    @property
    def num_tokens(self) -> int:
        """Text and video."""
        return self.visual_tokens + self.text_tokens


def longest_prompt(video: VideoConfig, prompt: PromptConfig, vision: VisionSizes) -> Prompt:
    """The prompt with most visual tokens."""

    def of(num_frames: int) -> Prompt:
        pixels = max_frame_pixels(num_frames, video.frame_size)
        tokens = vision.num_tokens(num_frames, pixels)
        return Prompt(num_frames, pixels, tokens, max_text_tokens(prompt))

    candidates = map(of, range(1, max_frames(video) + 1))
    return max(candidates, key=lambda prompt: (prompt.visual_tokens, prompt.num_frames))


def max_text_tokens(prompt: PromptConfig) -> int:
    """A byte-level tokenizer makes at most one token of a byte."""
    text = (prompt.system or "") + prompt.text
    return len(text.encode()) + TEMPLATE_TOKENS


def max_frames(video: VideoConfig) -> int:
    """Most frames of a clip."""
    sampling, clips = video.sampling, video.clips
    if sampling.policy is SamplingPolicy.UNIFORM:
        return sampling.num_frames
    longest_s = video.limits.max_duration_s
    if clips.policy is ClipPolicy.WINDOWS:
        longest_s = min(longest_s, clips.window_s + clips.min_clip_s)
    return max(1, min(sampling.max_frames, math.floor(longest_s * sampling.fps)))


def max_frame_pixels(num_frames: int, config: FrameSizeConfig) -> int:
    """Most pixels of a frame that is at most WIDEST_SHAPE times as long as wide.

    As pipeline/video/frame_size.py: the share of the budget, or what rounding a frame up to
    ``min_pixels`` gives: (x + 1)(y + 1) multiples where x y are enough.
    """
    if config.fixed_px is not None:
        return math.prod(config.fixed_px)
    share = max(config.max_total_pixels // num_frames, int(_MIN_SHARE * config.min_pixels))
    least = config.min_pixels / config.multiple_of_px**2
    sides = math.sqrt(least) * (math.sqrt(WIDEST_SHAPE) + 1 / math.sqrt(WIDEST_SHAPE))
    rounded_up = math.ceil(least + sides + 1) * config.multiple_of_px**2
    return max(min(config.max_pixels, share), rounded_up)

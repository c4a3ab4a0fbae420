"""The sections of the configuration that lead from a file to frames."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config_section import Section


class SamplingPolicy(StrEnum):
    """Which frames of a clip the model sees."""

    UNIFORM = "uniform"
    FPS = "fps"


class FrameSamplingConfig(Section):
    """Which frames of a clip the model sees; always spread over the whole clip."""

    policy: SamplingPolicy = SamplingPolicy.UNIFORM
    """uniform: a number of frames; fps: a rate."""
    num_frames: int = Field(default=64, ge=1)
    """uniform: this many frames (fewer only if the clip has fewer)."""
    fps: float = Field(default=2.0, gt=0)
    """fps: this rate, in frames/s ..."""
    max_frames: int = Field(default=768, ge=1)
    """... but at most this many frames, then spread evenly."""


class ClipPolicy(StrEnum):
    """How a video is cut into clips."""

    WHOLE = "whole"
    WINDOWS = "windows"
    SCENES = "scenes"


class ClipConfig(Section):
    """How a video is cut into clips."""

    policy: ClipPolicy = ClipPolicy.WHOLE
    """whole: a video is one clip; windows: equal lengths; scenes: cut where the picture changes."""
    window_s: float = Field(default=30.0, gt=0)
    """windows: length of one, s; a last one shorter than min_clip_s joins the one before."""
    scene_threshold: float = Field(default=27.0, gt=0)
    """scenes: content change (HSV, 0-255) that starts a new scene."""
    min_clip_s: float = Field(default=1.0, ge=0)
    """Clips shorter than this join their neighbour, s."""


class FrameSizeConfig(Section):
    """The model's pixel budget; frames are resized to it before they leave the decode process."""

    multiple_of_px: int = Field(default=28, ge=1)
    """Both sides become a multiple of this (patch size x spatial merge)."""
    min_pixels: int = Field(default=128 * 28 * 28, ge=1)
    """Least pixels of a frame."""
    max_pixels: int = Field(default=768 * 28 * 28, ge=1)
    """Most pixels of a frame."""
    max_total_pixels: int = Field(default=2 * 24_576 * 28 * 28, ge=1)
    """Most pixels of all frames of a clip together (Qwen merges frames by two: 24,576 tokens)."""
    fixed_px: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Exact (height, width) instead of the budget, for models with one input size."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.fixed_px is None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} > max_pixels {self.max_pixels}")
        return self


class DecodeLimits(Section):
    """What a hostile file can't pass."""

    plan_timeout_s: float = Field(default=600.0, gt=0)
    """Wall clock for probing a video and cutting it into clips, s; then the decode process is
    killed. Scenes are found by decoding all of it, and files without an index are read whole."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Wall clock for decoding one clip, s; then the decode process is killed."""
    max_source_pixels: int = Field(default=8192 * 4320, ge=1)
    """Most pixels of a source frame."""
    max_duration_s: float = Field(default=6 * 3600.0, gt=0)
    """Longest video, s."""
    max_memory_bytes: int = Field(default=4 << 30, ge=1 << 28)
    """Address space that the decode process may grow by, bytes."""


class VideoConfig(Section):
    """From file to frames."""

    sampling: FrameSamplingConfig = FrameSamplingConfig()
    """Which frames of a clip the model sees."""
    clips: ClipConfig = ClipConfig()
    """How a video is cut into clips."""
    frame_size: FrameSizeConfig = FrameSizeConfig()
    """How large the frames are that the model sees."""
    limits: DecodeLimits = DecodeLimits()
    """What a hostile file can't pass."""

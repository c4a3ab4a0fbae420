"""A clip of the usual size that shows nothing, to try things out and to warm them up.

Shapes: F frames, H and W their sides in pixels.
"""

from __future__ import annotations

import numpy as np

from pipeline.config import SamplingPolicy, VideoConfig
from pipeline.records import ClipSpec, DecodedClip, VideoInfo, VideoObject, frames_digest
from pipeline.video.frame_size import frame_size

_MOST_FRAMES = 64
_SOURCE_HEIGHT_PX, _SOURCE_WIDTH_PX = 720, 1280
_SECONDS_BETWEEN_FRAMES = 0.5


def blank_clip(config: VideoConfig) -> DecodedClip:
    """A clip of black frames [F, H, W, 3], as many and as large as those of a usual clip."""
    sampling = config.sampling
    by_number = sampling.policy is SamplingPolicy.UNIFORM
    num_frames = min(sampling.num_frames if by_number else sampling.max_frames, _MOST_FRAMES)
    height, width = frame_size(_SOURCE_HEIGHT_PX, _SOURCE_WIDTH_PX, num_frames, config.frame_size)
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    times = np.arange(num_frames, dtype=np.float64) * _SECONDS_BETWEEN_FRAMES
    duration_s = num_frames * _SECONDS_BETWEEN_FRAMES
    video = VideoObject(uri="blank", etag="", size_bytes=0)
    info = VideoInfo("", "", width, height, 0, duration_s, 2.0, num_frames)
    spec = ClipSpec(video, clip_index=0, num_clips=1, start_s=0.0, end_s=duration_s)
    return DecodedClip(spec, info, frames, times, frames_digest(frames, times), decode_s=0.0)

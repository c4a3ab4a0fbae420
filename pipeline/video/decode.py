"""Decode the sampled frames of a clip, upright and at the model's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation

from pipeline.config import VideoConfig
from pipeline.records import Stage, VideoInfo
from pipeline.video.container import Source, open_video
from pipeline.video.frame_size import frame_size
from pipeline.video.reader import FrameReader
from pipeline.video.sampling import sample_times

# swscale's bicubic is antialiased when it shrinks (the filter widens with the scale), as the
# models' own resize is. The flags make it equal on every CPU and interpolate chroma fully.
_RESIZE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrames:
    """frames [F, H, W, 3] uint8 RGB; timestamps_s [F] float64, strictly increasing.

    Times count from the video's first frame and are the frames' own: the first may be a little
    before the clip's start, when that picture was still on display.
    """

    frames: npt.NDArray[np.uint8]
    timestamps_s: npt.NDArray[np.float64]


def decode_frames(
    source: Source, info: VideoInfo, start_s: float, end_s: float, config: VideoConfig
) -> DecodedFrames:
    """The sampled frames of [start_s, end_s) of the video that ``info`` was probed from.

    F is the sampling policy's count, or fewer where a picture stays on display over several sampled
    times (variable frame rate). Raises VideoError (truncated, corrupt, ...).
    """
    times_s = sample_times(start_s, end_s, info.fps, config.sampling)
    height, width = frame_size(info.height_px, info.width_px, len(times_s), config.frame_size)
    timestamps_s: list[float] = []
    with open_video(source, Stage.DECODE) as video:
        frames = np.empty((len(times_s), height, width, 3), np.uint8)
        reader = FrameReader(video, info)
        for time_s in times_s:
            shown_s, frame = reader.frame_at(time_s)
            if timestamps_s and shown_s <= timestamps_s[-1]:
                continue
            frames[len(timestamps_s)] = to_rgb(frame, height, width, info.rotation_deg)
            timestamps_s.append(shown_s)
    return DecodedFrames(frames[: len(timestamps_s)], np.asarray(timestamps_s, np.float64))


def to_rgb(
    frame: VideoFrame, height_px: int, width_px: int, rotation_deg: int
) -> npt.NDArray[np.uint8]:
    """[height_px, width_px, 3] uint8, resized and then turned ``rotation_deg`` clockwise."""
    if rotation_deg in (90, 270):
        height_px, width_px = width_px, height_px
    small = frame.reformat(
        width=width_px, height=height_px, format="rgb24", interpolation=_RESIZE, threads=1
    )
    return np.rot90(small.to_ndarray(), k=-(rotation_deg // 90))

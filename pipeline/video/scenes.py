"""Scene changes, from one decoding pass over a video at thumbnail size.

The measure is that of PySceneDetect's ContentDetector (mean absolute change of hue, saturation and
value between consecutive frames, OpenCV's HSV scale), so its thresholds apply. It is done here
because the pass then runs in our killable process, reads from object storage, has the same times
as decoding, and needs neither OpenCV nor a second reading of the container.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.records import Stage, VideoInfo
from pipeline.video.container import Source, open_video
from pipeline.video.decode import to_rgb
from pipeline.video.reader import FrameReader

_THUMBNAIL_PX = 64


def find_scene_cuts(source: Source, info: VideoInfo, threshold: float) -> list[float]:
    """Times (s) of the first frame of every scene but the first. Raises VideoError.

    Frames that can't be decoded are passed over: the clips that need them will say so.
    """
    cuts_s: list[float] = []
    before: npt.NDArray[np.float32] | None = None
    with open_video(source, Stage.PROBE) as video:
        for time_s, frame in FrameReader(video, info).frames():
            after = hsv(to_rgb(frame, _THUMBNAIL_PX, _THUMBNAIL_PX, 0))
            if before is not None and content_change(before, after) >= threshold:
                cuts_s.append(time_s)
            before = after
    return cuts_s


def content_change(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> float:
    """Mean absolute difference of two HSV images, 0-255."""
    return float(np.abs(before - after).mean())


def hsv(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """[H, W, 3] RGB -> hue 0-180, saturation 0-255, value 0-255, as OpenCV scales them."""
    pixels = rgb.astype(np.float32)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    value = pixels.max(axis=-1)
    chroma = value - pixels.min(axis=-1)
    divisor = np.where(chroma == 0, 1, chroma)
    sextant = np.select(
        [value == red, value == green],
        [(green - blue) / divisor, 2 + (blue - red) / divisor],
        4 + (red - green) / divisor,
    )
    hue = np.where(chroma == 0, 0, sextant * 30 % 180)
    saturation = 255 * chroma / np.where(value == 0, 1, value)
    return np.stack([hue, saturation, value], axis=-1).astype(np.float32)

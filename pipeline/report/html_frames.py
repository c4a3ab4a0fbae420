"""Key frames of captioned clips as small pictures that a page can hold.

Sources are opened anew, in the killable decode process: a report is made after the run, perhaps
elsewhere, and a video may be gone, changed or out of reach by then.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config import (
    DecodeLimits,
    FrameSamplingConfig,
    FrameSizeConfig,
    StorageConfig,
    VideoConfig,
)
from pipeline.records import CaptionRecord
from pipeline.stages.decode import BAD_VIDEO_ERRORS
from pipeline.storage import Opener, StorageError
from pipeline.video.errors import VideoError
from pipeline.video.guard import GuardedDecoder

MAX_READING_S = 300.0
_TIMEOUT_S = 20.0
_MAX_PIXELS = 240 * 136
_JPEG_QUALITY = 70


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A picture as a data URI, and its time from the video's start."""

    data_uri: str
    time_s: float


@dataclass(slots=True)
class KeyFrames:
    """What could be read, and why the rest could not."""

    by_clip: dict[str, tuple[KeyFrame, ...]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """By clip_id: what is wrong with its video now."""
    stopped: str | None = None
    """Why no more videos were tried, if some were not."""


def read_key_frames(
    clips: Iterable[CaptionRecord],
    num_frames: int,
    storage: StorageConfig,
    max_reading_s: float = MAX_READING_S,
) -> KeyFrames:
    """A few frames of each clip, spread over it, within the time.

    A store that doesn't answer, or refuses the credentials, ends the reading: it would let each
    clip wait in turn.
    """
    found = KeyFrames()
    deadline_s = time.monotonic() + max_reading_s
    with GuardedDecoder(_config(num_frames)) as decoder:
        for clip in clips:
            if time.monotonic() > deadline_s:
                found.stopped = f"reading key frames was given {max_reading_s:.0f} s"
                break
            try:
                found.by_clip[clip.clip_id] = _frames(decoder, clip, storage)
            except BAD_VIDEO_ERRORS as error:
                found.unreadable[clip.clip_id] = (
                    error.message if isinstance(error, VideoError) else error.reason
                )
            except StorageError as error:
                found.stopped = f"the videos can't be reached from here: {error.reason}"
                break
    return found


def _frames(
    decoder: GuardedDecoder, clip: CaptionRecord, storage: StorageConfig
) -> tuple[KeyFrame, ...]:
    video = clip.spec.video
    opener = Opener(video.uri, video.etag, storage)
    info = decoder.plan(opener).info
    decoded = decoder.decode(opener, info, (clip.spec.start_s, clip.spec.end_s))
    times_s = decoded.timestamps_s.tolist()
    return tuple(KeyFrame(_data_uri(frame), at) for frame, at in zip(decoded.frames, times_s))


def _data_uri(frame: npt.NDArray[np.uint8]) -> str:
    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _config(num_frames: int) -> VideoConfig:
    return VideoConfig(
        sampling=FrameSamplingConfig(num_frames=num_frames),
        frame_size=FrameSizeConfig(
            multiple_of_px=2,
            min_pixels=1,
            max_pixels=_MAX_PIXELS,
            max_total_pixels=num_frames * _MAX_PIXELS,
        ),
        limits=DecodeLimits(plan_timeout_s=_TIMEOUT_S, timeout_s=_TIMEOUT_S),
    )

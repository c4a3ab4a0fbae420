"""Write pictures as a real video file, in one of several codecs.

Encoders run on one thread with fixed settings, so that the same pictures give the same bytes on
every run with the same library versions.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import av
import av.container
import numpy as np
from numpy.typing import NDArray

# The AV1 encoder writes a page about itself to stderr for every file unless told otherwise.
os.environ.setdefault("SVT_LOG", "1")


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write a video file; `encoder` and `options` as FFmpeg names them."""

    name: str
    encoder: str
    suffix: str
    options: tuple[tuple[str, str], ...]


_X265_PARAMS = "pools=none:frame-threads=1:log-level=error"
# Cheap presets: a clip is written in 10 to 35 ms, and looks as good as web video does.
CODECS = {
    codec.name: codec
    for codec in (
        Codec("h264", "libx264", ".mp4", (("preset", "ultrafast"), ("crf", "23"))),
        Codec("mpeg4", "mpeg4", ".avi", (("qmin", "3"), ("qmax", "3"))),
        # A negative speed is a fixed one; a positive one would follow the machine's load.
        Codec(
            "vp8",
            "libvpx",
            ".webm",
            (("deadline", "realtime"), ("cpu-used", "-8"), ("crf", "10"), ("b", "2M")),
        ),
        Codec("mpeg2", "mpeg2video", ".mkv", (("qmin", "3"), ("qmax", "3"))),
        Codec(
            "vp9",
            "libvpx-vp9",
            ".webm",
            (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "30"), ("b", "0")),
        ),
        Codec(
            "hevc",
            "libx265",
            ".mkv",
            (("preset", "ultrafast"), ("crf", "25"), ("x265-params", _X265_PARAMS)),
        ),
        Codec(
            "av1",
            "libsvtav1",
            ".mp4",
            (("preset", "11"), ("crf", "30"), ("svtav1-params", "lp=1")),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Timing:
    """How a clip plays: `fps` file frames a second, each world step held for `hold` of them."""

    fps: int
    hold: int


def sample_timing(rng: random.Random) -> Timing:
    """Draw a timing; clips last 1.6 to 4.8 s."""
    return Timing(fps=rng.choice((5, 6, 8, 10)), hold=rng.choice((2, 3)))


def encode(
    pictures: NDArray[np.uint8],
    path: Path,
    codec: Codec,
    timing: Timing,
    *,
    index_first: bool = False,
) -> None:
    """Write `pictures` (uint8 [T, H, W, 3], RGB) to `path`, each held for `timing.hold` frames.

    `index_first` puts the index of an mp4 before its frames ("faststart").
    """
    num_steps, height, width, _ = pictures.shape
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    flags = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", options=flags) as container:
        container.flags |= av.container.Flags.bitexact.value
        stream = container.add_stream(codec.encoder, rate=timing.fps, options=dict(codec.options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for step in range(num_steps):
            frame = av.VideoFrame.from_ndarray(pictures[step], format="rgb24").reformat(
                format="yuv420p"
            )
            for repeat in range(timing.hold):
                frame.pts = step * timing.hold + repeat
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    # Run by root, the AV1 encoder leaves the thread in a real-time class, where it would starve
    # the machine.
    os.sched_setscheduler(0, policy, priority)

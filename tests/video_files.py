"""Small real video files whose frames say which one they are.

Each picture is a 4 x 2 board of black and white fields that spells the frame's index in binary, so
that a test reads from the pixels which frame it got, through any lossy codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

BOARD_ROWS, BOARD_COLUMNS = 2, 4
MAX_INDEX = 2 ** (BOARD_ROWS * BOARD_COLUMNS) - 1

_QUICK_AND_QUIET = {
    "libx265": {"x265-params": "log-level=none"},
    "libsvtav1": {"preset": "12"},
    "libx264": {"preset": "ultrafast", "bf": "0"},
    # not "realtime": its pictures depend on how busy the machine is
    "libvpx": {"deadline": "good", "cpu-used": "5"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "5"},
}


def picture(index: int, height_px: int, width_px: int, noise: int = 0) -> npt.NDArray[np.uint8]:
    """[height_px, width_px, 3] that spells ``index``; bit 0 is the field at the top left."""
    bits = np.array([index >> bit & 1 for bit in range(BOARD_ROWS * BOARD_COLUMNS)])
    board = np.where(bits.reshape(BOARD_ROWS, BOARD_COLUMNS), 230, 25)
    rows = np.arange(height_px) * BOARD_ROWS // height_px
    columns = np.arange(width_px) * BOARD_COLUMNS // width_px
    pixels = np.repeat(board[rows][:, columns, None], 3, axis=2)
    if noise:
        rng = np.random.default_rng(index)
        pixels = pixels + rng.integers(-noise, noise + 1, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def index_of(frame: npt.NDArray[np.uint8]) -> int:
    """The index that a decoded (resized, upright) picture spells."""
    height, width = frame.shape[:2]
    index = 0
    for bit in range(BOARD_ROWS * BOARD_COLUMNS):
        row, column = divmod(bit, BOARD_COLUMNS)
        y = int((row + 0.5) * height / BOARD_ROWS)
        x = int((column + 0.5) * width / BOARD_COLUMNS)
        index |= int(frame[y, x].mean() > 128) << bit
    return index


def indices_of(frames: npt.NDArray[np.uint8]) -> list[int]:
    """The index of every frame of [F, H, W, 3]."""
    return [index_of(frame) for frame in frames]


def write_video(
    path: Path,
    *,
    codec: str = "mpeg4",
    num_frames: int = 40,
    height_px: int = 48,
    width_px: int = 64,
    fps: int = 25,
    gop: int = 10,
    noise: int = 0,
    num_b_frames: int = 0,
    rotation_deg: int = 0,
    times_s: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    show: Callable[[int], npt.NDArray[np.uint8]] | None = None,
) -> Path:
    """Write and return ``path``: the suffix says the container.

    ``rotation_deg`` is clockwise, what a player has to turn. ``times_s`` gives each frame its own
    time (variable frame rate, late start). ``show`` replaces the pictures.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.options = _QUICK_AND_QUIET.get(codec, {}) | (codec_options or {})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.gop_size = gop
        if num_b_frames:
            stream.options = stream.options | {"bf": str(num_b_frames)}
        if times_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation_deg:
            stream.set_display_rotation(-rotation_deg)
        for index in range(num_frames):
            pixels = show(index) if show else picture(index, height_px, width_px, noise)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times_s is not None:
                frame.time_base = Fraction(1, 1000)
                frame.pts = round(times_s[index] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path, num_frames: int = 20) -> Path:
    """A sound file in a video container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for _ in range(num_frames):
            silence = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.rate = 44100
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, start: float, end: float) -> Path:
    """Overwrite the bytes between two shares of the file with noise, in place."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep only the first ``share`` of the file, in place."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path

"""Files that no decoder can read in full: what a real bucket holds besides good videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from pipeline.sample_world.encoding import CODECS, Timing, encode
from pipeline.sample_world.render import render
from pipeline.sample_world.scene import sample_scene

_TIMING = Timing(fps=10, hold=3)


def _good_mp4(path: Path, seed: int, *, index_first: bool = False) -> bytes:
    encode(render(sample_scene(seed)), path, CODECS["h264"], _TIMING, index_first=index_first)
    return path.read_bytes()


def _empty(path: Path, seed: int) -> None:
    path.write_bytes(b"")


def _text(path: Path, seed: int) -> None:
    path.write_text(f"<html><body>404: video {seed} was not found</body></html>\n" * 20)


def _truncated(path: Path, seed: int) -> None:
    """Cut in half; the index was at the end and is gone, so nothing can be decoded."""
    data = _good_mp4(path, seed)
    path.write_bytes(data[: len(data) // 2])


def _truncated_index_first(path: Path, seed: int) -> None:
    """Cut in half after the index: decoders give the first frames and raise nothing."""
    data = _good_mp4(path, seed, index_first=True)
    path.write_bytes(data[: len(data) // 2])


def _corrupt_middle(path: Path, seed: int) -> None:
    """The middle third of the coded frames is noise; index and first key frame are intact."""
    data = bytearray(_good_mp4(path, seed, index_first=True))
    start = data.index(b"mdat") + 4
    third = (len(data) - start) // 3
    noise = np.random.default_rng(seed).integers(0, 256, third, dtype=np.uint8)
    data[start + third : start + 2 * third] = noise.tobytes()
    path.write_bytes(bytes(data))


def _audio_only(path: Path, seed: int) -> None:
    """A sound and no picture."""
    rate = 16_000
    with av.open(str(path), "w") as container:
        container.flags |= av.container.Flags.bitexact.value
        stream = container.add_stream("aac", rate=rate, layout="mono")
        tone = 0.2 * np.sin(2 * np.pi * (220 + seed % 220) * np.arange(2 * rate) / rate)
        for start in range(0, len(tone), 1024):
            chunk = np.zeros((1, 1024), np.float32)
            chunk[0, : len(tone[start : start + 1024])] = tone[start : start + 1024]
            frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


DAMAGES: dict[str, Callable[[Path, int], None]] = {
    "empty": _empty,
    "text": _text,
    "truncated": _truncated,
    "truncated_index_first": _truncated_index_first,
    "corrupt_middle": _corrupt_middle,
    "audio_only": _audio_only,
}
"""By kind: a function that writes one such file (always named .mp4) at a path, from a seed."""

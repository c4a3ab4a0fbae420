"""Videos damaged by chance, in ways that no list of known damages has: seeded, so repeatable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.sample_world.encoding import CODECS, Codec, Timing, encode
from pipeline.sample_world.render import render
from pipeline.sample_world.scene import sample_scene

Bytes = npt.NDArray[np.uint8]

SOURCE_CODECS = (
    *CODECS.values(),
    Codec("h264-ts", "libx264", ".ts", (("preset", "ultrafast"),)),
    Codec("hevc-mp4", "libx265", ".mp4", CODECS["hevc"].options),
    Codec("mpeg4-mp4", "mpeg4", ".mp4", ()),
    Codec("mpeg2-ps", "mpeg2video", ".mpg", ()),
    Codec("mjpeg", "mjpeg", ".avi", (("strict", "unofficial"),)),
    Codec("flv1", "flv", ".flv", ()),
    Codec("msmpeg4v3", "msmpeg4", ".wmv", ()),
)
"""What is written to be damaged: every codec of the sample world, and others and containers that
real buckets have."""

_TIMING = Timing(fps=10, hold=2)
_HEADER_BYTES = 512
_EXTREMES = np.array([0x00, 0x01, 0x7F, 0x80, 0xFF], np.uint8)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One damaged file: its bytes, what was done to them, and the suffix of what it was made of."""

    name: str
    suffix: str
    data: bytes


def write_sources(folder: Path, seed: int = 0) -> list[Path]:
    """A good video of each of the codecs; 10 to 60 kB."""
    paths = []
    for number, codec in enumerate(SOURCE_CODECS):
        path = folder / f"{codec.name}{codec.suffix}"
        encode(render(sample_scene(seed + number)), path, codec, _TIMING)
        paths.append(path)
    return paths


def mutants(sources: Sequence[Path], num_mutants: int, seed: int = 0) -> list[Mutant]:
    """Damaged versions of the sources, all kinds of damage over all sources in turn."""
    contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in sources]
    kinds = list(MUTATIONS.items())
    made = []
    for number in range(num_mutants):
        rng = np.random.default_rng((seed, number))
        name, mutate = kinds[number % len(kinds)]
        place = number // len(kinds) % len(sources)
        path, other = sources[place], contents[int(rng.integers(len(sources)))]
        data = mutate(contents[place].copy(), other, rng).tobytes()
        made.append(Mutant(f"{number:05d}-{name}-{path.stem}", path.suffix, data))
    return made


def _flip_bits(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """Some bits anywhere, from one to a few hundred."""
    count = int(2 ** rng.uniform(0, 8))
    places = rng.integers(len(data), size=count)
    np.bitwise_xor.at(data, places, (1 << rng.integers(8, size=count)).astype(np.uint8))
    return data


def _edit_header(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """Sizes, counts and types at the head (or, of an mp4, in the index at the tail) turn absurd."""
    head = slice(0, _HEADER_BYTES) if rng.random() < 0.5 else slice(-_HEADER_BYTES, None)
    region = data[head]
    for _ in range(int(rng.integers(1, 9))):
        start = int(rng.integers(len(region)))
        region[start : start + int(rng.choice([1, 2, 4, 8]))] = rng.choice(_EXTREMES)
    return data


def _truncate(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """Only the first bytes; perhaps none."""
    return data[: int(rng.integers(len(data)))]


def _behead(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """Only the last bytes."""
    return data[int(rng.integers(1, len(data))) :]


def _splice(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """The beginning of one file and the end of another."""
    ends = int(rng.integers(1, len(data))), int(rng.integers(1, len(other)))
    return np.concatenate((data[: ends[0]], other[ends[1] :]))


def _overwrite(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """A stretch is noise, or zeros as of a sparse file."""
    start, end = sorted(int(place) for place in rng.integers(len(data), size=2))
    is_noise = rng.random() < 0.5
    data[start:end] = rng.integers(256, size=end - start, dtype=np.uint8) if is_noise else 0
    return data


def _drop(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """A stretch is missing: whatever counts bytes is wrong after it."""
    start = int(rng.integers(len(data)))
    return np.delete(data, slice(start, start + int(2 ** rng.uniform(0, 12))))


def _repeat(data: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """A stretch comes twice."""
    start, end = sorted(int(place) for place in rng.integers(len(data), size=2))
    return np.concatenate((data[:end], data[start:]))


MUTATIONS: dict[str, Callable[[Bytes, Bytes, np.random.Generator], Bytes]] = {
    "bit_flips": _flip_bits,
    "header": _edit_header,
    "truncation": _truncate,
    "beheading": _behead,
    "splice": _splice,
    "overwriting": _overwrite,
    "gap": _drop,
    "repetition": _repeat,
}
"""By kind: bytes of a file (which may be written to), those of another, and chance, to bytes."""

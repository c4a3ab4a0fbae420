"""The frame pool: clips as the pipeline delivers them, cached on disk.

Every clip is rendered, encoded as a real file and decoded again, so that what the pair learns from
is what it will be shown. A clip is a function of its split and index; a shard of clips, once
written, is never written again.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import (
    FrameSamplingConfig,
    FrameSizeConfig,
    SamplingPolicy,
    VideoConfig,
)
from pipeline.reference_pair.architecture import FRAME_PX, NUM_FRAMES
from pipeline.sample_world.encoding import CODECS, encode, sample_timing
from pipeline.sample_world.render import render
from pipeline.sample_world.scene import Scene, sample_scene
from pipeline.video.decode import decode_frames
from pipeline.video.probe import probe

SHARD_CLIPS = 512
FIRST_SEED = {"train": 1_000_000, "validation": 2_000_000, "test": 3_000_000}
"""The scene seed of a split's first clip; splits never overlap."""

VIDEO_CONFIG = VideoConfig(
    sampling=FrameSamplingConfig(policy=SamplingPolicy.UNIFORM, num_frames=NUM_FRAMES),
    frame_size=FrameSizeConfig(fixed_px=(FRAME_PX, FRAME_PX)),
)
"""How the pipeline must decode for the pair."""

# Shares of the codecs in the pool: all are there, the slow encoders less often.
_CODEC_SHARES = {"h264": 6, "mpeg4": 4, "mpeg2": 3, "vp8": 3, "vp9": 2, "hevc": 1, "av1": 1}


@dataclass(frozen=True, slots=True)
class Clip:
    """A scene and its frames: uint8 [NUM_FRAMES, FRAME_PX, FRAME_PX, 3], and how long it lasts."""

    scene: Scene
    frames: NDArray[np.uint8]
    duration_s: float


def clip_seed(split: str, index: int) -> int:
    """The scene seed of clip `index` of `split`."""
    return FIRST_SEED[split] + index


def deliver(split: str, index: int, folder: Path) -> Clip:
    """Make one clip's file in `folder`, and decode it as the pipeline does."""
    seed = clip_seed(split, index)
    scene = sample_scene(seed)
    rng = random.Random(f"file {seed}")
    codec = CODECS[rng.choices(list(_CODEC_SHARES), weights=list(_CODEC_SHARES.values()))[0]]
    path = folder / f"{seed}{codec.suffix}"
    encode(render(scene), path, codec, sample_timing(rng))
    try:
        frames, duration_s = decode(path)
    finally:
        path.unlink()
    return Clip(scene, frames, duration_s)


def decode(path: Path) -> tuple[NDArray[np.uint8], float]:
    """The frames of a file as the pipeline delivers them (see `Clip`), and its duration in s.

    Raises VideoError for a damaged file, and ValueError for one with fewer pictures than the pair
    looks at.
    """
    info = probe(str(path), VIDEO_CONFIG.limits)
    frames = decode_frames(str(path), info, 0.0, info.duration_s, VIDEO_CONFIG).frames
    if len(frames) != NUM_FRAMES:
        raise ValueError(f"{path}: {len(frames)} different frames instead of {NUM_FRAMES}")
    return frames, info.duration_s


def write_pool(
    folder: Path, split: str, num_clips: int, report: Callable[[str], None] = print
) -> None:
    """Write all missing shards of the first `num_clips` clips (a multiple of SHARD_CLIPS)."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_clips // SHARD_CLIPS):
        if _durations_path(folder, split, shard).exists():
            continue
        frames = np.empty((SHARD_CLIPS, NUM_FRAMES, FRAME_PX, FRAME_PX, 3), np.uint8)
        durations_s = np.empty(SHARD_CLIPS, np.float32)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for offset in range(SHARD_CLIPS):
                clip = deliver(split, shard * SHARD_CLIPS + offset, Path(scratch))
                frames[offset], durations_s[offset] = clip.frames, clip.duration_s
        # The durations come last, and whole: their presence says that the shard is complete.
        np.save(_frames_path(folder, split, shard), frames)
        aside = folder / f"{split}-{shard:03d}.partial.npy"
        np.save(aside, durations_s)
        aside.rename(_durations_path(folder, split, shard))
        report(f"frames: {split} {(shard + 1) * SHARD_CLIPS} of {num_clips} clips")


def _frames_path(folder: Path, split: str, shard: int) -> Path:
    return folder / f"{split}-{shard:03d}.frames.npy"


def _durations_path(folder: Path, split: str, shard: int) -> Path:
    return folder / f"{split}-{shard:03d}.durations.npy"


class FramePool:
    """Random access to the first `num_clips` clips of a split that `write_pool` has written."""

    def __init__(self, folder: Path, split: str, num_clips: int) -> None:
        """Raise FileNotFoundError if a shard is not there yet."""
        shards = range(num_clips // SHARD_CLIPS)
        self._durations_s = np.concatenate(
            [np.load(_durations_path(folder, split, shard)) for shard in shards]
        )
        self._frames = [
            np.load(_frames_path(folder, split, shard), mmap_mode="r") for shard in shards
        ]
        self._split = split

    def __len__(self) -> int:
        return len(self._durations_s)

    def __getitem__(self, index: int) -> Clip:
        return Clip(
            scene=sample_scene(clip_seed(self._split, index)),
            frames=self._frames[index // SHARD_CLIPS][index % SHARD_CLIPS],
            duration_s=float(self._durations_s[index]),
        )


def is_written(folder: Path, split: str, num_clips: int) -> bool:
    """Whether the first `num_clips` clips of a split are all there."""
    return all(
        _durations_path(folder, split, shard).exists() for shard in range(num_clips // SHARD_CLIPS)
    )

"""Guards key frames: real videos in the real decode process, and videos that are out of reach."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from dataset_rows import record
from PIL import Image
from s3_server import Answer, S3Bucket
from video_files import cut, index_of, write_video

from pipeline.config import StorageConfig
from pipeline.records import CaptionRecord, ClipSpec
from pipeline.report.html_frames import KeyFrame, read_key_frames
from pipeline.storage import storage_for


def clip_of(path: Path, start_s: float = 0.0, end_s: float = 1.6) -> CaptionRecord:
    video = storage_for(str(path), StorageConfig()).stat(str(path))
    return record(ClipSpec(video, 0, 1, start_s, end_s))


def picture(frame: KeyFrame) -> np.ndarray:
    prefix, _, data = frame.data_uri.partition(",")
    assert prefix == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_frames_are_those_of_the_clip_and_small(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40, height_px=720, width_px=1280)
    clip = clip_of(path, 0.8, 1.6)
    found = read_key_frames([clip], 4, StorageConfig())
    frames = found.by_clip[clip.clip_id]
    assert [round(frame.time_s * 25) for frame in frames] == [22, 27, 32, 37]
    assert [index_of(picture(frame)) for frame in frames] == [22, 27, 32, 37]
    height, width, _ = picture(frames[0]).shape
    assert height * width <= 240 * 136
    assert width / height == pytest.approx(1280 / 720, rel=0.03)
    assert (found.unreadable, found.stopped) == ({}, None)


def test_a_video_that_is_gone_changed_or_broken_costs_only_its_own_frames(tmp_path: Path) -> None:
    good, gone, changed, broken = (
        clip_of(write_video(tmp_path / f"{name}.mp4")) for name in ("a", "b", "c", "d")
    )
    Path(gone.spec.video.uri).unlink()
    write_video(Path(changed.spec.video.uri), num_frames=10)
    path = cut(Path(broken.spec.video.uri), 0.5)
    broken = clip_of(path)
    found = read_key_frames([gone, changed, broken, good], 2, StorageConfig())
    assert list(found.by_clip) == [good.clip_id]
    assert "no such file" in found.unreadable[gone.clip_id]
    assert "changed" in found.unreadable[changed.clip_id]
    assert found.unreadable[broken.clip_id]
    assert found.stopped is None


def test_a_store_that_refuses_us_is_asked_once(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    """Each clip would wait for it in turn."""
    storage = storage_for(s3_bucket.uri(""), s3_bucket.config)
    clips = []
    for name in ("a", "b"):
        data = write_video(tmp_path / f"{name}.mp4").read_bytes()
        storage.put(s3_bucket.uri(f"{name}.mp4"), data)
        clips.append(record(ClipSpec(storage.stat(s3_bucket.uri(f"{name}.mp4")), 0, 1, 0.0, 1.0)))
    assert len(read_key_frames(clips, 2, s3_bucket.config).by_clip) == 2
    for method in ("GET", "HEAD"):
        s3_bucket.server.fail_next(method, Answer.UNKNOWN_KEY)
    found = read_key_frames(clips, 2, s3_bucket.config)
    assert (found.by_clip, found.unreadable) == ({}, {})
    assert found.stopped is not None
    assert "can't be reached from here" in found.stopped


def test_the_time_is_bounded(tmp_path: Path) -> None:
    clip = clip_of(write_video(tmp_path / "a.mp4"))
    found = read_key_frames([clip], 2, StorageConfig(), max_reading_s=-1.0)
    assert found.by_clip == {}
    assert found.stopped is not None

"""Guards the decode stage on real files: one outcome for every clip that is left, none lost."""

import numpy as np
import pytest

from pipeline.config import (
    ClipConfig,
    ClipPolicy,
    FrameSamplingConfig,
    FrameSizeConfig,
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    SpeculationMethod,
    StorageConfig,
    VideoConfig,
)
from pipeline.dataset.catalog import PlannedVideo, list_videos
from pipeline.records import DecodedClip, Failure, Stage, frames_digest
from pipeline.stages.decode import DecodeStage
from tests.video_files import damage, indices_of, write_video

FPS = 20
NUM_FRAMES = 120
WINDOW_S = 2.0


@pytest.fixture(scope="module")
def stage():
    config = RunConfig(
        input=InputConfig(uri="/videos"),
        output=OutputConfig(uri="/captions"),
        video=VideoConfig(
            sampling=FrameSamplingConfig(num_frames=8),
            clips=ClipConfig(policy=ClipPolicy.WINDOWS, window_s=WINDOW_S),
            frame_size=FrameSizeConfig(fixed_px=(48, 64)),
        ),
        models=ModelsConfig(target=ModelConfig(name="none")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
    )
    with DecodeStage(config) as stage:
        yield stage


@pytest.fixture
def video_path(tmp_path):
    """Six seconds, so three clips; frame n shows n."""
    return write_video(
        tmp_path / "a.mkv", codec="libx264", num_frames=NUM_FRAMES, fps=FPS, noise=30
    )


def listed(path):
    """The file as the catalogue plans it."""
    (video,) = list_videos(InputConfig(uri=str(path)), StorageConfig())
    return video


def test_every_window_is_a_clip(stage, video_path):
    video = listed(video_path)
    clips = list(stage(PlannedVideo(video)))
    assert all(isinstance(clip, DecodedClip) for clip in clips)
    assert [clip.spec.clip_index for clip in clips] == [0, 1, 2]
    assert {clip.spec.num_clips for clip in clips} == {3}
    assert {clip.spec.video for clip in clips} == {video}
    assert len({clip.clip_id for clip in clips}) == 3
    for index, clip in enumerate(clips):
        start, end = index * WINDOW_S * FPS, (index + 1) * WINDOW_S * FPS
        shown = indices_of(clip.frames)
        assert len(shown) == len(clip.timestamps_s) == 8
        assert all(start <= frame < end for frame in shown)
        assert shown == sorted(set(shown))
        assert clip.timestamps_s * FPS == pytest.approx(np.array(shown), abs=0.1)
        assert clip.frames_digest == frames_digest(clip.frames, clip.timestamps_s)
        assert clip.decode_s > 0


def test_clips_that_are_done_are_not_decoded_again(stage, video_path):
    video = listed(video_path)
    ids = [clip.clip_id for clip in stage(PlannedVideo(video))]
    (left,) = stage(PlannedVideo(video, frozenset([ids[0], ids[2]])))
    assert (left.clip_id, left.spec.clip_index, left.spec.num_clips) == (ids[1], 1, 3)
    assert list(stage(PlannedVideo(video, frozenset(ids)))) == []


def test_a_bad_file_is_one_failure(stage, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"not a video\n" * 100)
    (failure,) = stage(PlannedVideo(listed(path)))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.stage) == ("not_a_video", Stage.PROBE)
    assert (failure.spec, failure.video, failure.attempt) == (None, listed(path), 1)
    assert failure.message


def test_a_file_that_is_gone_is_one_failure(stage, video_path):
    video = listed(video_path)
    video_path.unlink()
    (failure,) = stage(PlannedVideo(video))
    assert (failure.code, failure.stage, failure.spec) == ("not_found", Stage.READ, None)
    assert failure.attempt == 3, "it was not looked for again"


def test_a_bad_clip_fails_alone(stage, video_path):
    video = listed(video_path)
    ids = [clip.clip_id for clip in stage(PlannedVideo(video))]
    damage(video_path, 0.45, 0.55)
    video = listed(video_path)
    first, failure, last = stage(PlannedVideo(video))
    assert isinstance(failure, Failure)
    assert (failure.code, failure.stage) == ("corrupt", Stage.DECODE)
    assert (failure.spec.clip_index, failure.spec.num_clips) == (1, 3)
    assert failure.clip_id == failure.spec.clip_id
    assert [first.spec.clip_index, last.spec.clip_index] == [0, 2]
    assert failure.clip_id not in ids  # the changed file is another video


def test_the_stage_goes_on_after_a_bad_file(stage, tmp_path, video_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    (failure,) = stage(PlannedVideo(listed(bad)))
    assert failure.code == "empty"
    assert len(list(stage(PlannedVideo(listed(video_path))))) == 3

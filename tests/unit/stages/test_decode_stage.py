"""What becomes a failure row and what stops the run, with a real server and a real video."""

import numpy as np
import pytest
from make_records import INFO
from s3_server import Answer, S3Bucket

from pipeline.config import (
    FailureBudget,
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
from pipeline.dataset.catalog import PlannedVideo
from pipeline.records import ClipSpec, DecodedClip, Failure, Stage, VideoObject
from pipeline.stages import decode as decode_module
from pipeline.stages.attempts import TransientRetries
from pipeline.stages.decode import DecodeStage
from pipeline.storage import CredentialsError, StorageError, TransientStorageError, storage_for
from pipeline.video.decode import DecodedFrames
from pipeline.video.guard import VideoPlan
from tests.video_files import write_video

MAX_ATTEMPTS = 2


def run_config(storage: StorageConfig) -> RunConfig:
    return RunConfig(
        input=InputConfig(uri="in"),
        output=OutputConfig(uri="out"),
        storage=storage.model_copy(update={"max_attempts": MAX_ATTEMPTS}),
        video=VideoConfig(
            sampling=FrameSamplingConfig(num_frames=2),
            frame_size=FrameSizeConfig(fixed_px=(48, 64)),
        ),
        models=ModelsConfig(target=ModelConfig(name="x")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
    )


@pytest.fixture(scope="module")
def video_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("stage") / "a.mp4").read_bytes()


@pytest.fixture
def video(s3_bucket: S3Bucket, video_bytes: bytes) -> VideoObject:
    uri = s3_bucket.uri("a.mp4")
    storage = storage_for(uri, s3_bucket.config)
    storage.put(uri, video_bytes)
    return storage.stat(uri)


def outcomes_of(
    s3_bucket: S3Bucket, video: VideoObject, max_attempts: int = 1
) -> list[DecodedClip | Failure]:
    """Without the pauses between attempts."""
    config = run_config(s3_bucket.config)
    retries = TransientRetries(FailureBudget(max_attempts=max_attempts), lambda pause_s: None)
    with DecodeStage(config, retries) as stage:
        return list(stage(PlannedVideo(video)))


def test_what_is_wrong_with_one_object_is_a_failure(
    s3_bucket: S3Bucket, video: VideoObject
) -> None:
    """Missing, changed, forbidden and not ours to open: a row each, and the run goes on."""
    uri = s3_bucket.uri("")
    assert isinstance(outcomes_of(s3_bucket, video)[0], DecodedClip)
    for code, changed in (
        ("not_found", VideoObject(f"{uri}gone.mp4", "e", 1)),
        ("object_changed", VideoObject(video.uri, "0" * 32, 1)),
        ("unsupported_uri", VideoObject("http://host/a.mp4", "", 1)),
        ("access_denied", video),
    ):
        if code == "access_denied":
            s3_bucket.server.fail_next("HEAD", Answer.DENIED)
            s3_bucket.server.fail_next("GET", Answer.DENIED)
        (failure,) = outcomes_of(s3_bucket, changed)
        assert isinstance(failure, Failure)
        assert (failure.code, failure.stage, failure.video) == (code, Stage.READ, changed)


@pytest.mark.parametrize(("num_refusals", "attempt"), [(0, 1), (1, 2), (2, 3)])
def test_a_transient_failure_is_tried_again(
    s3_bucket: S3Bucket, video: VideoObject, num_refusals: int, attempt: int
) -> None:
    """A permission that comes a second later, say; the row says how many attempts it took."""
    s3_bucket.server.fail_next("HEAD", *[Answer.DENIED] * num_refusals)
    (clip,) = outcomes_of(s3_bucket, video, max_attempts=3)
    assert isinstance(clip, DecodedClip)
    assert clip.attempt == attempt


def test_attempts_end(s3_bucket: S3Bucket, video: VideoObject) -> None:
    gone = VideoObject(f"{video.uri}.gone.mp4", "e", 1)
    (failure,) = outcomes_of(s3_bucket, gone, max_attempts=3)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.kind, failure.attempt) == ("not_found", "transient", 3)


def test_poison_is_opened_once(s3_bucket: S3Bucket) -> None:
    uri = s3_bucket.uri("text.mp4")
    storage = storage_for(uri, s3_bucket.config)
    storage.put(uri, b"not a video" * 100)
    (failure,) = outcomes_of(s3_bucket, storage.stat(uri), max_attempts=3)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.kind, failure.attempt) == ("not_a_video", "poison", 1)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [(Answer.SLOW_DOWN, TransientStorageError), (Answer.EXPIRED, CredentialsError)],
)
def test_what_is_wrong_with_the_store_stops_the_run(
    s3_bucket: S3Bucket,
    video: VideoObject,
    method: str,
    answer: Answer,
    error: type[StorageError],
) -> None:
    """An hour of 503s, or a token that ends at night, must not mark a corpus as failed for ever."""
    s3_bucket.server.fail_next(method, *[answer] * MAX_ATTEMPTS)
    if method == "HEAD":
        s3_bucket.server.fail_next("GET", answer)
    with pytest.raises(error):
        outcomes_of(s3_bucket, video)


class FakeDecoder:
    """Three clips; planning takes 6 s of a clock that only it moves, decoding a clip takes 1 s."""

    def __init__(self, config: VideoConfig) -> None:
        self.now_s = 0.0

    def plan(self, source: object) -> VideoPlan:
        self.now_s += 6.0
        return VideoPlan(INFO, [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)])

    def decode(self, source: object, info: object, span: object) -> DecodedFrames:
        self.now_s += 1.0
        frames = np.zeros((1, 4, 4, 3), np.uint8)
        return DecodedFrames(frames, np.zeros(1))

    def close(self) -> None:
        pass


def test_planning_is_part_of_what_decoding_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread over the clips that are decoded now, so that the seconds of a run add up."""
    decoder = FakeDecoder(VideoConfig())
    monkeypatch.setattr(decode_module, "GuardedDecoder", lambda config: decoder)
    monkeypatch.setattr(decode_module.time, "perf_counter", lambda: decoder.now_s)
    source = VideoObject("s3://b/a.mp4", "e", 1)
    done = frozenset({ClipSpec(source, 1, 3, 1.0, 2.0).clip_id})
    clips = list(DecodeStage(run_config(StorageConfig()))(PlannedVideo(source, done)))
    assert [clip.decode_s for clip in clips if isinstance(clip, DecodedClip)] == [4.0, 4.0]

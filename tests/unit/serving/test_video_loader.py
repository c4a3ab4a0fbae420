"""Sampling, span and limits of a request, and what its errors say."""

import base64
import re
from contextlib import suppress

import pytest
from video_files import indices_of

from pipeline.config import DecodeLimits
from pipeline.records import Stage
from pipeline.serving.video_errors import VideoRefusedError
from pipeline.serving.video_loader import VideoRequest
from pipeline.video.errors import VideoError, VideoErrorCode
from pipeline.video.guard import GuardedDecoder
from tests.video_loading import CONFIG, error_of, file_url, folder, load_file, local

__all__ = ["folder", "load_file"]


@pytest.mark.parametrize(
    ("options", "indices"),
    [
        ({"num_frames": 2}, [10, 30]),
        ({"fps": 5.0}, [2, 7, 12, 17, 22, 27, 32, 37]),
        ({"num_frames": 2, "start_s": 0.8}, [25, 35]),
        ({"num_frames": 2, "end_s": 0.8}, [5, 15]),
        ({"num_frames": 1, "start_s": 0.4, "end_s": 1.2}, [20]),
        ({"num_frames": 2, "start_s": 0.8, "end_s": 99.0}, [25, 35]),
        ({"num_frames": 768}, list(range(40))),
        ({"start_s": 1.599, "end_s": 1.6}, [39]),
    ],
)
def test_sampling_and_span_of_a_request(folder, load_file, options, indices):
    clip = load_file(file_url(folder / "a.mp4"), **options)
    assert indices_of(clip.frames) == indices
    assert clip.spec.end_s <= 1.6


def test_sampling_is_of_one_request(folder, load_file):
    """The next request has the configured sampling again, in the same decode process."""
    url = file_url(folder / "a.mp4")
    assert [len(load_file(url, num_frames=n).frames) for n in (1, None, 3)] == [1, 4, 3]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        *(({"num_frames": n}, "invalid_sampling") for n in (0, -1, 769, 10**30)),
        *(({"fps": fps}, "invalid_sampling") for fps in (0.0, -1.0, 1e308)),
        *(({"fps": float(fps)}, "invalid_sampling") for fps in ("inf", "nan")),
        ({"num_frames": 2, "fps": 1.0}, "invalid_sampling"),
        *(({"start_s": start}, "invalid_span") for start in (-1.0, 1.6, 1e308)),
        *(({"start_s": float(start)}, "invalid_span") for start in ("inf", "nan")),
        *(({"end_s": end}, "invalid_span") for end in (0.0, -1.0)),
        *(({"end_s": float(end)}, "invalid_span") for end in ("inf", "nan")),
        ({"start_s": 1.0, "end_s": 1.0}, "invalid_span"),
        ({"start_s": 1.0, "end_s": 0.5}, "invalid_span"),
    ],
)
def test_sampling_and_spans_that_make_no_sense(folder, load_file, options, code):
    with pytest.raises(VideoRefusedError) as caught:
        load_file(file_url(folder / "a.mp4"), **options)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_the_stricter_duration_holds(folder):
    url = file_url(folder / "a.mp4")
    error = error_of(url, local(folder, max_duration_s=1.5), VideoError)
    assert error.code is VideoErrorCode.TOO_LONG
    strict = CONFIG.model_copy(update={"limits": DecodeLimits(max_duration_s=1.5)})
    error = error_of(url, local(folder), VideoError, config=strict)
    assert error.code is VideoErrorCode.TOO_LONG


def test_pixels_and_time_are_limited(folder):
    url = file_url(folder / "a.mp4")
    small = CONFIG.model_copy(update={"limits": DecodeLimits(max_source_pixels=100)})
    assert (
        error_of(url, local(folder), VideoError, config=small).code is VideoErrorCode.TOO_LARGE_PX
    )
    hasty = CONFIG.model_copy(update={"limits": DecodeLimits(timeout_s=1e-6)})
    assert error_of(url, local(folder), VideoError, config=hasty).code is VideoErrorCode.TIMEOUT


def test_no_path_of_ours_is_told(folder, load_file):
    """FFmpeg and the system put the name of the file into what they say."""
    good = (folder / "a.mp4").read_bytes()
    said = set()
    for start in range(0, len(good), 100):
        damaged = good[:start] + bytes(range(40)) + good[start + 40 :]
        with suppress(VideoError):
            load_file("data:video/mp4;base64," + base64.b64encode(damaged).decode())
            continue
        with pytest.raises(VideoError) as caught:
            load_file("data:video/mp4;base64," + base64.b64encode(damaged).decode())
        said.add(caught.value.message)
    assert len(said) > 2
    assert not [message for message in said if re.search("/proc|/fd/|/tmp", message)]


@pytest.mark.parametrize("stage", [Stage.READ, Stage.PROBE])
def test_a_path_in_an_error_is_replaced(folder, monkeypatch, stage):
    """Whatever FFmpeg says in its next release."""

    class Complaining(GuardedDecoder):
        def plan(self, source):
            raise VideoError(
                VideoErrorCode.CORRUPT, stage, f"[Errno 5] Input error: {source.uri!r}"
            )

    monkeypatch.setattr("pipeline.serving.decoder_pool.GuardedDecoder", Complaining)
    error = error_of(file_url(folder / "a.mp4"), local(folder), VideoError)
    assert error.stage is stage
    assert "/" not in error.message


def test_a_url_is_not_in_the_repr_of_a_request():
    assert "secret" not in repr(VideoRequest("https://a.example/?token=secret"))

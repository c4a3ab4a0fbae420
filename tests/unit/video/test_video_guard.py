"""The decode process: answers like the library, dies alone, leaves nothing behind."""

import ctypes
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import (
    ClipConfig,
    ClipPolicy,
    DecodeLimits,
    FrameSamplingConfig,
    FrameSizeConfig,
    VideoConfig,
)
from pipeline.records import Stage
from pipeline.video.decode import decode_frames
from pipeline.video.errors import VideoError, VideoErrorCode
from pipeline.video.guard import GuardedDecoder
from pipeline.video.probe import probe
from tests.video_files import damage, write_video

CONFIG = VideoConfig(
    sampling=FrameSamplingConfig(num_frames=4),
    frame_size=FrameSizeConfig(fixed_px=(48, 64)),
    clips=ClipConfig(policy=ClipPolicy.WINDOWS, window_s=0.5, min_clip_s=0.2),
)


def limited(**limits):
    return CONFIG.model_copy(update={"limits": DecodeLimits(**limits)})


class Stuck(io.BytesIO):
    """A source that stops answering after its first kilobyte."""

    def read(self, size=-1):
        if self.tell() > 1000:
            time.sleep(3600)
        return super().read(min(size, 512) if size >= 0 else 512)


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raise_unpicklable():
    raise UnpicklableError("one", "two")


def touch_null():
    ctypes.string_at(0)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("guard") / "a.mp4", codec="libx264", noise=12))


@pytest.fixture(scope="module")
def decoder():
    with GuardedDecoder(CONFIG) as decoder:
        yield decoder


def is_running(pid):
    return Path(f"/proc/{pid}").exists()


def wait_until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_answers_what_the_library_answers(decoder, video):
    plan = decoder.plan(video)
    assert plan.info == probe(video, CONFIG.limits)
    np.testing.assert_allclose(plan.spans, [(0, 0.5), (0.5, 1.0), (1.0, 1.6)])
    for span in plan.spans:
        guarded = decoder.decode(video, plan.info, span)
        plain = decode_frames(video, plan.info, *span, CONFIG)
        np.testing.assert_array_equal(guarded.frames, plain.frames)
        np.testing.assert_array_equal(guarded.timestamps_s, plain.timestamps_s)


def test_one_warm_process_serves_many_requests(decoder, video):
    pid = decoder.child_pid
    decoder.plan(video)
    decoder.plan(partial(open, video, "rb"))
    assert decoder.child_pid == pid


def test_the_child_opens_the_source_itself(decoder, video):
    plan = decoder.plan(partial(open, video, "rb"))
    frames = decoder.decode(partial(open, video, "rb"), plan.info, plan.spans[0]).frames
    np.testing.assert_array_equal(frames, decoder.decode(video, plan.info, plan.spans[0]).frames)


def test_frames_can_be_changed_by_their_owner(decoder, video):
    plan = decoder.plan(video)
    frames = decoder.decode(video, plan.info, plan.spans[0]).frames
    frames[:] = 0
    assert frames.flags.owndata


def test_a_bad_video_is_an_error_and_the_process_stays(decoder, tmp_path):
    pid = decoder.child_pid
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError) as caught:
        decoder.plan(str(tmp_path / "text.mp4"))
    assert (caught.value.code, caught.value.stage) == (VideoErrorCode.NOT_A_VIDEO, Stage.PROBE)
    assert decoder.child_pid == pid


def test_a_missing_source_is_a_read_failure(decoder):
    with pytest.raises(VideoError) as caught:
        decoder.plan(partial(open, "/nowhere/at/all.mp4", "rb"))
    assert (caught.value.code, caught.value.stage) == (VideoErrorCode.NOT_FOUND, Stage.READ)


def test_what_an_opener_raises_comes_through_with_its_traceback(decoder):
    with pytest.raises(ValueError, match="invalid literal") as caught:
        decoder.plan(partial(int, "x"))
    assert "in the decode process" in caught.value.__notes__[0]


def test_an_exception_that_can_not_travel_is_named(decoder):
    with pytest.raises(RuntimeError, match="UnpicklableError: one and two"):
        decoder.plan(raise_unpicklable)


def test_a_source_that_hangs_is_killed_in_time(video):
    stuck = partial(Stuck, Path(video).read_bytes())
    with GuardedDecoder(limited(timeout_s=1.0, plan_timeout_s=1.5)) as decoder:
        pid = decoder.child_pid
        start = time.monotonic()
        # planning may read a whole video, so it has a clock of its own
        with pytest.raises(VideoError, match=r"1\.5 s \(video\.limits\.plan_timeout_s") as caught:
            decoder.plan(stuck)
        assert time.monotonic() - start < 10
        assert (caught.value.code, caught.value.stage) == (VideoErrorCode.TIMEOUT, Stage.PROBE)
        assert not is_running(pid)
        plan = decoder.plan(video)  # by a new process
        with pytest.raises(VideoError, match=r"1 s \(video\.limits\.timeout_s") as caught:
            decoder.decode(stuck, plan.info, plan.spans[0])
        assert (caught.value.code, caught.value.stage) == (VideoErrorCode.TIMEOUT, Stage.DECODE)


@pytest.mark.parametrize(
    ("crash", "how"), [(touch_null, "SIGSEGV"), (os.abort, "SIGABRT"), (partial(os._exit, 3), "3")]
)
def test_a_crash_is_an_error_and_the_next_video_is_fine(decoder, video, crash, how):
    with pytest.raises(VideoError, match=how) as caught:
        decoder.plan(crash)
    assert caught.value.code is VideoErrorCode.DECODER_CRASHED
    assert decoder.plan(video).info.num_frames == 40


def test_a_killed_process_is_an_error_and_the_next_video_is_fine(decoder, video):
    decoder.plan(video)
    os.kill(decoder.child_pid, signal.SIGKILL)
    with pytest.raises(VideoError, match="SIGKILL") as caught:
        decoder.plan(video)
    assert caught.value.code is VideoErrorCode.DECODER_CRASHED
    assert decoder.plan(video).info.num_frames == 40


def test_memory_is_limited(tmp_path):
    # 400 frames of 1000 x 1000 RGB are 1.2 GB
    path = str(write_video(tmp_path / "a.mp4", num_frames=400, height_px=16, width_px=16))
    hungry = VideoConfig(
        sampling=FrameSamplingConfig(num_frames=400),
        frame_size=FrameSizeConfig(fixed_px=(1000, 1000)),
        limits=DecodeLimits(max_memory_bytes=1 << 28),
    )
    with GuardedDecoder(hungry) as decoder:
        plan = decoder.plan(path)
        pid = decoder.child_pid
        with pytest.raises(VideoError, match="max_memory_bytes") as caught:
            decoder.decode(path, plan.info, plan.spans[0])
        assert caught.value.code is VideoErrorCode.OUT_OF_MEMORY
        assert not is_running(pid)
        assert decoder.plan(path) == plan


def test_no_process_and_no_descriptor_is_left():
    before = set(os.listdir("/proc/self/fd"))
    with GuardedDecoder(CONFIG) as decoder:
        pid = decoder.child_pid
        assert is_running(pid)
    assert not is_running(pid)  # a zombie would still be there
    assert set(os.listdir("/proc/self/fd")) == before


PARENT = """
import os, sys, time
from functools import partial
from pipeline.config import VideoConfig
from pipeline.video.guard import GuardedDecoder
decoder = GuardedDecoder(VideoConfig())
decoder.__enter__()
print(decoder.child_pid, flush=True)
if sys.argv[1] == "busy":
    decoder.plan(partial(time.sleep, 3600))
time.sleep(3600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_child_ends_with_its_parent(state):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, state], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_running(pid)
        parent.kill()
    wait_until(
        lambda: not is_running(pid) or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    )


def test_the_child_is_light(decoder):
    # torch alone would be seconds of start and a gigabyte
    maps = Path(f"/proc/{decoder.child_pid}/maps").read_text()
    assert "libav" in maps
    assert "torch" not in maps


def test_codecs_are_silent(capfd, video, tmp_path):
    shutil.copy(video, tmp_path / "bad.mp4")
    damage(tmp_path / "bad.mp4", 0.4, 0.5)
    whole = CONFIG.model_copy(update={"clips": ClipConfig()})
    with GuardedDecoder(whole) as decoder:
        plan = decoder.plan(str(tmp_path / "bad.mp4"))
        with pytest.raises(VideoError):
            decoder.decode(str(tmp_path / "bad.mp4"), plan.info, plan.spans[0])
    assert capfd.readouterr() == ("", "")

"""Every codec and container we promise: the right frames, at their true times, however reached."""

import io
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DecodeLimits, FrameSamplingConfig, FrameSizeConfig, VideoConfig
from pipeline.records import Stage
from pipeline.video.container import open_video
from pipeline.video.decode import decode_frames
from pipeline.video.probe import probe
from pipeline.video.reader import FrameReader
from tests.video_files import index_of, indices_of, write_video

LIMITS = DecodeLimits()
CONFIG = VideoConfig(
    sampling=FrameSamplingConfig(num_frames=8), frame_size=FrameSizeConfig(fixed_px=(48, 64))
)
OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"}

VIDEOS = {
    "h264.mp4": ("h264", {"codec": "libx264"}),
    "h264-b-frames.mp4": ("h264", {"codec": "libx264", "num_b_frames": 3}),
    "h264-open-gop.mp4": (
        "h264",
        {"codec": "libx264", "num_b_frames": 3, "codec_options": OPEN_GOP},
    ),
    "h264-open-gop.mkv": (
        "h264",
        {"codec": "libx264", "num_b_frames": 3, "codec_options": OPEN_GOP},
    ),
    "h264-fragmented.mp4": (
        "h264",
        {"codec": "libx264", "options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "h264-b-frames.ts": ("h264", {"codec": "libx264", "num_b_frames": 3}),
    "h264-b-frames.avi": ("h264", {"codec": "libx264", "num_b_frames": 3}),
    "h264-long-gop.mp4": ("h264", {"codec": "libx264", "gop": 1000}),
    "hevc.mp4": ("hevc", {"codec": "libx265"}),
    "hevc-b-frames.mkv": ("hevc", {"codec": "libx265", "num_b_frames": 3}),
    "vp8.webm": ("vp8", {"codec": "libvpx"}),
    "vp8-invisible-frames.webm": ("vp8", {"codec": "libvpx", "codec_options": ALT_REF}),
    "vp8.ogg": ("vp8", {"codec": "libvpx"}),
    "vp9.webm": ("vp9", {"codec": "libvpx-vp9"}),
    "vp9-invisible-frames.webm": ("vp9", {"codec": "libvpx-vp9", "codec_options": ALT_REF}),
    "av1.mp4": ("av1", {"codec": "libsvtav1"}),
    "av1.mkv": ("av1", {"codec": "libsvtav1"}),
    "mpeg4.mp4": ("mpeg4", {"codec": "mpeg4"}),
    "mpeg4.avi": ("mpeg4", {"codec": "mpeg4"}),
    "mpeg4-b-frames.avi": ("mpeg4", {"codec": "mpeg4", "num_b_frames": 2}),
    "mpeg2.mkv": ("mpeg2video", {"codec": "mpeg2video"}),
    "mpeg2-b-frames.ts": ("mpeg2video", {"codec": "mpeg2video", "num_b_frames": 2}),
    "mpeg2-b-frames.mpg": ("mpeg2video", {"codec": "mpeg2video", "num_b_frames": 2}),
    "flv1.flv": ("flv1", {"codec": "flv1"}),
    "msmpeg4.wmv": ("msmpeg4v3", {"codec": "msmpeg4v3"}),
    "theora.ogv": ("theora", None),
}
THEORA = Path(__file__).parents[2] / "data" / "board_theora.ogv"


@pytest.fixture(scope="module", params=VIDEOS)
def video(request, tmp_path_factory):
    """(path, codec) of 40 frames at 25 frames/s that spell their index."""
    codec, how = VIDEOS[request.param]
    if how is None:
        return str(THEORA), codec
    path = tmp_path_factory.mktemp("codecs") / request.param
    return str(write_video(path, noise=8, **how)), codec


def test_probe_reads_the_container(video):
    path, codec = video
    info = probe(path, LIMITS)
    assert (info.codec, info.width_px, info.height_px, info.rotation_deg) == (codec, 64, 48, 0)
    assert info.num_frames == 40
    assert info.duration_s == pytest.approx(1.6, abs=0.002)
    assert info.fps == pytest.approx(25, abs=0.05)


def test_frames_are_those_on_display_at_the_middle_of_each_segment(video):
    path, _ = video
    info = probe(path, LIMITS)
    decoded = decode_frames(path, info, 0, info.duration_s, CONFIG)
    assert decoded.frames.shape == (8, 48, 64, 3)
    # 1.6 s in 8 segments of 5 frames: the frame on display in the middle is the third of each
    assert indices_of(decoded.frames) == [2, 7, 12, 17, 22, 27, 32, 37]
    np.testing.assert_allclose(decoded.timestamps_s, np.arange(2, 40, 5) / 25, atol=0.0015)


@pytest.mark.parametrize("num_samples", [3, 40])
def test_seeking_and_a_full_pass_give_identical_frames(video, num_samples):
    path, _ = video
    info = probe(path, LIMITS)
    times_s = (np.arange(num_samples) + 0.5) * info.duration_s / num_samples
    outcomes = []
    for seek_cost_frames in (-math.inf, 0, math.inf):
        with open_video(path, Stage.DECODE) as opened:
            reader = FrameReader(opened, info, seek_cost_frames)
            shown = [reader.frame_at(time_s) for time_s in times_s]
            outcomes.append([(t, frame.to_ndarray(format="rgb24").tobytes()) for t, frame in shown])
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_late_clip_begins_at_its_first_frame(video):
    path, _ = video
    info = probe(path, LIMITS)
    every_frame = CONFIG.model_copy(update={"sampling": FrameSamplingConfig(num_frames=99)})
    decoded = decode_frames(path, info, 1.2, info.duration_s, every_frame)
    assert indices_of(decoded.frames) == list(range(30, 40))


def test_a_file_object_gives_what_the_path_gives(video):
    path, _ = video
    info = probe(path, LIMITS)
    source = io.BytesIO(Path(path).read_bytes())
    assert probe(source, LIMITS) == info
    from_path = decode_frames(path, info, 0, info.duration_s, CONFIG)
    from_object = decode_frames(source, info, 0, info.duration_s, CONFIG)
    np.testing.assert_array_equal(from_object.frames, from_path.frames)
    np.testing.assert_array_equal(from_object.timestamps_s, from_path.timestamps_s)


def test_the_board_survives_any_codec(video):
    path, _ = video
    info = probe(path, LIMITS)
    with open_video(path, Stage.DECODE) as opened:
        frames = [
            frame.to_ndarray(format="rgb24") for _, frame in FrameReader(opened, info).frames()
        ]
    assert [index_of(frame) for frame in frames] == list(range(40))

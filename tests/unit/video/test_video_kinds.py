"""Videos that are valid and unusual: turned, uneven in time, late, tiny, odd."""

import numpy as np
import pytest

from pipeline.config import (
    DecodeLimits,
    FrameSamplingConfig,
    FrameSizeConfig,
    SamplingPolicy,
    VideoConfig,
)
from pipeline.video.decode import decode_frames
from pipeline.video.probe import probe
from tests.video_files import indices_of, picture, write_video

LIMITS = DecodeLimits()


def config(num_frames=8, fixed_px=(48, 64), **sampling):
    return VideoConfig(
        sampling=FrameSamplingConfig(num_frames=num_frames, **sampling),
        frame_size=FrameSizeConfig(fixed_px=fixed_px),
    )


def decode_all(path, video_config):
    info = probe(str(path), LIMITS)
    return info, decode_frames(str(path), info, 0, info.duration_s, video_config)


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_are_upright(tmp_path, rotation_deg, suffix):
    # the camera stores the upright picture turned the other way, and says by how much
    def stored(index):
        upright = picture(index, 64, 48) if rotation_deg in (90, 270) else picture(index, 48, 64)
        return np.rot90(upright, k=rotation_deg // 90)

    path = tmp_path / f"phone.{suffix}"
    write_video(path, rotation_deg=rotation_deg, num_frames=20, show=stored)
    height, width = (64, 48) if rotation_deg in (90, 270) else (48, 64)
    info, decoded = decode_all(path, config(4, (height, width)))
    assert (info.rotation_deg, info.height_px, info.width_px) == (rotation_deg, height, width)
    assert indices_of(decoded.frames) == [2, 7, 12, 17]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_variable_frame_rate_is_sampled_by_time(tmp_path, suffix):
    # 20 quick frames in the first second, then 10 slow ones: by index, most samples would be early
    times_s = [index * 0.05 for index in range(20)] + [1 + index * 0.3 for index in range(10)]
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = write_video(tmp_path / f"vfr.{suffix}", codec=codec, num_frames=30, times_s=times_s)
    info, decoded = decode_all(path, config(8))
    middles_s = (np.arange(8) + 0.5) * info.duration_s / 8
    on_display = [max(i for i, t in enumerate(times_s) if t <= middle) for middle in middles_s]
    assert indices_of(decoded.frames) == on_display
    np.testing.assert_allclose(decoded.timestamps_s, np.take(times_s, on_display), atol=0.002)


def test_a_picture_that_stays_is_given_once(tmp_path):
    times_s = [0.0, 1.0, 2.0, 3.0, 3.1]
    path = write_video(tmp_path / "slides.mp4", codec="libx264", num_frames=5, times_s=times_s)
    _, decoded = decode_all(path, config(5))
    assert indices_of(decoded.frames) == [0, 1, 2]  # on display at 0.3, 0.9, 1.6, 2.2 and 2.8 s
    assert np.all(np.diff(decoded.timestamps_s) > 0)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_frame(tmp_path, name):
    times_s = [7 + index / 25 for index in range(40)]
    path = write_video(tmp_path / name, codec="libx264", times_s=times_s)
    info, decoded = decode_all(path, config(8))
    assert info.duration_s == pytest.approx(1.6, abs=0.05)
    assert indices_of(decoded.frames) == [2, 7, 12, 17, 22, 27, 32, 37]
    np.testing.assert_allclose(decoded.timestamps_s, np.arange(2, 40, 5) / 25, atol=0.002)


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.webm", "one.avi", "one.ogg"])
def test_one_frame_is_a_video(tmp_path, name):
    codec = {"one.webm": "libvpx", "one.ogg": "libvpx", "one.mp4": "libx264"}.get(name, "mpeg4")
    path = write_video(
        tmp_path / name, codec=codec, num_frames=1, show=lambda _: picture(9, 48, 64)
    )
    info, decoded = decode_all(path, config(8))
    assert info.num_frames == 1
    assert info.duration_s == pytest.approx(0.04, abs=0.001)
    assert indices_of(decoded.frames) == [9]
    assert decoded.timestamps_s.tolist() == [0.0]


@pytest.mark.parametrize(("height_px", "width_px"), [(46, 66), (2, 130), (130, 2), (18, 34)])
def test_odd_sizes(tmp_path, height_px, width_px):
    path = write_video(tmp_path / "odd.mp4", height_px=height_px, width_px=width_px, num_frames=5)
    video_config = VideoConfig(
        sampling=FrameSamplingConfig(num_frames=2),
        frame_size=FrameSizeConfig(multiple_of_px=28, min_pixels=28 * 28, max_pixels=112 * 112),
    )
    info, decoded = decode_all(path, video_config)
    assert (info.height_px, info.width_px) == (height_px, width_px)
    assert decoded.frames.shape[1] % 28 == decoded.frames.shape[2] % 28 == 0


def test_a_webm_of_odd_pixels(tmp_path):
    path = write_video(
        tmp_path / "odd.webm", codec="libvpx", height_px=47, width_px=63, num_frames=5
    )
    info, decoded = decode_all(path, config(5))
    assert (info.height_px, info.width_px) == (47, 63)
    assert indices_of(decoded.frames) == [0, 1, 2, 3, 4]


def test_frames_per_second_policy_is_capped_and_spread(tmp_path):
    path = write_video(tmp_path / "plain.mp4")
    fps = {"policy": SamplingPolicy.FPS, "fps": 5}
    _, decoded = decode_all(path, config(**fps))
    assert indices_of(decoded.frames) == [2, 7, 12, 17, 22, 27, 32, 37]
    _, capped = decode_all(path, config(**fps, max_frames=2))
    assert indices_of(capped.frames) == [10, 30]


def test_more_frames_wanted_than_there_are(tmp_path):
    path = write_video(tmp_path / "short.mp4", num_frames=3)
    _, decoded = decode_all(path, config(64))
    assert indices_of(decoded.frames) == [0, 1, 2]


def test_decoding_is_deterministic(tmp_path):
    path = write_video(tmp_path / "plain.mp4", codec="libx264", noise=30)
    _, first = decode_all(path, config(8, (56, 84)))
    _, second = decode_all(path, config(8, (56, 84)))
    np.testing.assert_array_equal(first.frames, second.frames)


def test_shrinking_is_antialiased(tmp_path):
    # a one-pixel chessboard is grey at a quarter of the size; a filter that skips pixels keeps it
    def chessboard(_):
        rows, columns = np.mgrid[:96, :128]
        return np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)

    path = write_video(
        tmp_path / "fine.mp4",
        codec="libx264",
        height_px=96,
        width_px=128,
        num_frames=2,
        show=chessboard,
        codec_options={"qp": "0"},
    )
    _, decoded = decode_all(path, config(1, (24, 32)))
    assert decoded.frames[0, 4:-4, 4:-4].std() < 6

"""Clip plans, and the scene cuts they can follow."""

import numpy as np
import pytest

from pipeline.config import ClipConfig, ClipPolicy, DecodeLimits
from pipeline.records import VideoInfo
from pipeline.video.clips import plan_spans
from pipeline.video.probe import probe
from pipeline.video.scenes import find_scene_cuts, hsv
from tests.video_files import damage, write_video

SCENE_COLOURS = [(120, 10, 10), (160, 250, 160), (10, 10, 120), (250, 250, 160)]


def info_of(duration_s, fps=25.0):
    return VideoInfo("mp4", "h264", 64, 48, 0, duration_s, fps, max(1, round(duration_s * fps)))


def plan(duration_s, cuts_s=(), **config):
    return plan_spans(info_of(duration_s), ClipConfig(**config), cuts_s)


def test_whole():
    assert plan(7.5) == [(0.0, 7.5)]


def test_windows():
    windows = {"policy": ClipPolicy.WINDOWS, "window_s": 10}
    assert plan(30, **windows) == [(0, 10), (10, 20), (20, 30)]
    assert plan(25, **windows) == [(0, 10), (10, 20), (20, 25)]
    assert plan(20.5, **windows) == [(0, 10), (10, 20.5)]  # half a second joins the one before
    assert plan(0.3, **windows) == [(0, 0.3)]


def test_a_last_window_of_less_than_a_frame_joins_even_with_no_minimum():
    spans = plan(20.01, policy=ClipPolicy.WINDOWS, window_s=10, min_clip_s=0)
    assert spans == [(0, 10), (10, 20.01)]


def test_short_scenes_join_their_neighbour():
    scenes = {"policy": ClipPolicy.SCENES, "min_clip_s": 1.0}
    assert plan(10, (4.0, 4.5, 8.0), **scenes) == [(0, 4), (4, 8), (8, 10)]
    assert plan(10, (0.2, 4.0, 9.5), **scenes) == [(0, 4), (4, 10)]
    assert plan(10, (), **scenes) == [(0, 10)]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx")])
def test_scene_cuts_are_where_the_picture_changes(tmp_path, name, codec):
    def show(index):
        moving = np.zeros((48, 64, 3), np.uint8)
        moving[:] = SCENE_COLOURS[index // 10]
        moving[10:20, index % 10 * 5 : index % 10 * 5 + 8] = 128
        return moving

    path = str(write_video(tmp_path / name, codec=codec, show=show))
    info = probe(path, DecodeLimits())
    cuts_s = find_scene_cuts(path, info, threshold=27.0)
    np.testing.assert_allclose(cuts_s, [0.4, 0.8, 1.2], atol=0.002)
    assert find_scene_cuts(path, info, threshold=255.0) == []


def test_damage_does_not_stop_the_search(tmp_path):
    def show(index):
        noise = np.random.default_rng(index).integers(0, 40, (48, 64, 3))
        return (noise + SCENE_COLOURS[index // 25]).clip(0, 255).astype(np.uint8)

    path = write_video(tmp_path / "a.mp4", codec="libx264", num_frames=100, show=show)
    cuts_s = find_scene_cuts(
        str(damage(path, 0.3, 0.32)), probe(str(path), DecodeLimits()), threshold=27.0
    )
    assert 3.0 in np.round(cuts_s, 2)


def test_hue_saturation_value_as_opencv_scales_them():
    pixels = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (100, 50, 50)]
    expected = [(0, 255, 255), (60, 255, 255), (120, 255, 255), (0, 0, 255), (0, 0, 0)]
    found = hsv(np.array([pixels], np.uint8))[0]
    np.testing.assert_allclose(found[:5], expected)
    np.testing.assert_allclose(found[5], (0, 127.5, 100))

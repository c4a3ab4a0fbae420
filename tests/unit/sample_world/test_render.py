"""Pictures show what the scene says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sample_world.render import SIDE_PX, render
from pipeline.sample_world.scene import (
    MOTIONS,
    NUM_STEPS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    sample_scene,
)


def _one(motion: str = "still", size: str = "large", shape: str = "circle") -> Scene:
    return Scene("dark", "plain", "no", (Thing(size, "red", shape, motion),), 5)


def _red(frames: np.ndarray) -> list[np.ndarray]:
    """Pixel coordinates (row, column) of the red thing, by frame."""
    reddish = (frames[..., 0] > 180) & (frames[..., 1] < 90)
    return [np.argwhere(mask) for mask in reddish]


@given(st.integers(0, 2**40))
@settings(max_examples=20, deadline=None)
def test_frames_are_a_function_of_the_scene(seed: int):
    scene = sample_scene(seed)
    frames = render(scene)
    assert frames.shape == (NUM_STEPS, SIDE_PX, SIDE_PX, 3)
    assert frames.dtype == np.uint8
    assert (frames == render(scene)).all()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)]
)
def test_things_move_where_they_should(motion: str, axis: int, sign: int):
    centres = np.array([pixels.mean(axis=0) for pixels in _red(render(_one(motion)))])
    drift = centres[-1] - centres[0]
    assert drift[axis] * sign > 60
    assert abs(drift[1 - axis]) < 1


def test_things_grow_shrink_and_blink():
    areas = {m: [len(pixels) for pixels in _red(render(_one(m)))] for m in MOTIONS}
    assert areas["grow"][-1] > 2 * areas["grow"][0]
    assert areas["shrink"][-1] < areas["shrink"][0] / 2
    assert areas["blink"][1] == 0 < areas["blink"][0]
    assert len(set(areas["still"])) == 1


def test_shapes_and_sizes_differ():
    areas = {
        (size, shape): len(_red(render(_one(size=size, shape=shape)))[0])
        for size in SIZES
        for shape in SHAPES
    }
    assert len(set(areas.values())) == len(areas)
    assert all(areas["large", shape] > 1.8 * areas["small", shape] for shape in SHAPES)


@pytest.mark.parametrize(("marks", "number"), [("no", 0), ("two", 2), ("three", 3), ("four", 4)])
def test_marks_are_countable_along_the_bottom(marks: str, number: int):
    scene = Scene("dark", "plain", marks, (Thing("small", "blue", "ring", "up"),), 1)
    row = render(scene)[0, int(SIDE_PX * 56.5 / 60), :, 1] > 200
    assert (np.diff(np.concatenate([[False], row]).astype(int)) == 1).sum() == number

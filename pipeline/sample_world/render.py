"""Draw a scene: one picture per world step.

World coordinates are 60 x 60, the resolution that the reference pair sees after the decoder has
resized the clip; pictures are drawn `SCALE` times larger, so that the files are ordinary videos.
Positions sit on a coarse grid and every step of a motion falls inside a pair of frames, because a
vision tower with a temporal patch of two frames learns nothing else at this size of training set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.sample_world.scene import NUM_STEPS, Scene, Thing

WORLD = 60
SCALE = 4
SIDE_PX = WORLD * SCALE

_GRID = 5
_RADIUS = {"small": 5.5, "large": 8.5}
_OUTLINE = 1.7
_HOLE = 0.6
"""Of a ring's radius. With a smaller one a third of all rings were taken for circles."""
_HUES: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 220, 50),
    "purple": (140, 50, 170),
    "orange": (240, 140, 30),
    "cyan": (60, 210, 220),
    "pink": (245, 130, 180),
}
_TONES = {"light": (185, 185, 178), "dark": (70, 70, 78)}
_NUM_MARKS = {"no": 0, "two": 2, "three": 3, "four": 4}
_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Steps taken so far at each of the eight world steps: one inside every pair of frames.
_STEPS_TAKEN = (np.arange(NUM_STEPS) + 1) // 2
_HIGHEST_CENTRE, _LOWEST_CENTRE = 10, 45  # things stay above the marks
_WHITE = 250

# World coordinates of the pixel centres.
_Y, _X = (np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(np.float32) + 0.5) / SCALE


def render(scene: Scene) -> NDArray[np.uint8]:
    """Return the pictures of `scene`: uint8 [NUM_STEPS, SIDE_PX, SIDE_PX, 3], RGB."""
    rng = np.random.default_rng(scene.texture_seed)
    frames = np.repeat(_backdrop(scene, rng)[None], NUM_STEPS, axis=0)
    lane = WORLD // len(scene.things)
    for index, thing in enumerate(scene.things):
        _draw(frames, thing, lane * index, lane * (index + 1), rng)
    return frames


def _backdrop(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The still part of the picture, uint8 [SIDE_PX, SIDE_PX, 3]."""
    if scene.pattern == "plain":
        relief = np.zeros_like(_X)
    elif scene.pattern == "striped":
        relief = (_X // 5) % 2 - 0.5
    elif scene.pattern == "checkered":
        relief = (_X // 5 + _Y // 5) % 2 - 0.5
    else:
        relief = ((_X % 10 - 5) ** 2 + (_Y % 10 - 5) ** 2 < 7) - 0.2
    base = np.array(_TONES[scene.tone]) + rng.uniform(-8, 8, 3)
    # The grain lies on a coarser grid than the pixels: it survives the resize, like real texture.
    grain = rng.normal(0, 3, (WORLD, WORLD)).repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    picture = (base + (30 * relief + grain)[..., None]).astype(np.uint8)
    for mark in range(_NUM_MARKS[scene.marks]):
        inside = (abs(_X - 15 * mark - 7.5) < 2.5) & (abs(_Y - 56.5) < 2)
        picture[inside] = _WHITE
    return picture


def _draw(
    frames: NDArray[np.uint8],
    thing: Thing,
    lane_start: int,
    lane_end: int,
    rng: np.random.Generator,
) -> None:
    """Draw `thing` into all frames, in its lane and with a white outline."""
    step_x, step_y = _STEP.get(thing.motion, (0, 0))
    drift_x, drift_y = step_x * _GRID * _STEPS_TAKEN, step_y * _GRID * _STEPS_TAKEN
    # A sideways drift fills a narrow lane, and may touch its edges; else things keep clear of them.
    margin = 2 * _GRID if lane_end - lane_start - 4 * _GRID >= np.ptp(drift_x) else _GRID
    centre_x = drift_x + _start(rng, drift_x, lane_start + margin, lane_end - margin)
    centre_y = drift_y + _start(rng, drift_y, _HIGHEST_CENTRE, _LOWEST_CENTRE)
    radius = _RADIUS[thing.size] * _growth(thing.motion)
    hue = np.array(_HUES[thing.colour]) + rng.integers(-8, 9, 3)
    for t in range(NUM_STEPS):
        if thing.motion == "blink" and t % 2:
            continue
        box = _window(centre_y[t], radius[t]), _window(centre_x[t], radius[t])
        dx, dy = _X[box] - centre_x[t], _Y[box] - centre_y[t]
        picture = frames[t][box]
        picture[_covers(thing.shape, dx, dy, radius[t])] = _WHITE
        picture[_covers(thing.shape, dx, dy, radius[t] - _OUTLINE)] = hue.clip(0, 255)


def _window(centre: int, radius: float) -> slice:
    """The pixels of one axis that a shape can reach."""
    return slice(max(0, int((centre - radius) * SCALE)), int((centre + radius) * SCALE) + 1)


def _start(rng: np.random.Generator, drift: NDArray[np.int64], low: int, high: int) -> int:
    """A grid position from which the whole drift stays within [low, high]."""
    first = -(-(low - int(drift.min())) // _GRID)
    last = (high - int(drift.max())) // _GRID
    return _GRID * int(rng.integers(first, last + 1))


def _growth(motion: str) -> NDArray[np.floating]:
    """Radius of each step relative to the thing's own radius."""
    if motion == "grow":
        return 0.7 + 0.2 * _STEPS_TAKEN
    if motion == "shrink":
        return 1.5 - 0.2 * _STEPS_TAKEN
    return np.ones(NUM_STEPS)


def _covers(
    shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: float
) -> NDArray[np.bool_]:
    """Which offsets from the centre the shape covers."""
    if shape == "circle":
        return dx * dx + dy * dy < radius * radius
    if shape == "ring":
        squared = dx * dx + dy * dy
        return (squared < radius * radius) & (squared > (_HOLE * radius) ** 2)
    if shape == "square":
        return (abs(dx) < 0.9 * radius) & (abs(dy) < 0.9 * radius)
    if shape == "triangle":
        return (dy < 0.85 * radius) & (dy > -radius) & (abs(dx) < (dy + radius) * 0.55)
    arm = 0.36 * radius
    return ((abs(dx) < arm) & (abs(dy) < radius)) | ((abs(dy) < arm) & (abs(dx) < radius))

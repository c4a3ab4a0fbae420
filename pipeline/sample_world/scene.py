"""What a synthetic clip shows: a background, edge marks, and one or two moving things.

A scene is a plain value. Everything else of the sample world is a function of it: the frames
(`render`), the captions (`grammar`) and the facts that a caption should state (`facts`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TONES = ("light", "dark")
PATTERNS = ("plain", "striped", "checkered", "dotted")
MARKS = ("no", "two", "three", "four")
"""How many marks run along the bottom edge, as a caption spells it."""
COUNTS = ("one", "two")
SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
MOTIONS = ("left", "right", "up", "down", "still", "grow", "shrink", "blink")

NUM_STEPS = 8
"""A clip consists of this many world steps; each is one distinct picture."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape and what it does for the whole clip."""

    size: str
    colour: str
    shape: str
    motion: str


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is visible in one clip. `things` are ordered from left to right."""

    tone: str
    pattern: str
    marks: str
    things: tuple[Thing, ...]
    texture_seed: int
    """Seeds what no caption mentions: start positions, hue jitter and the grain of the surface."""

    @property
    def count(self) -> str:
        """The number of things, as a caption spells it."""
        return COUNTS[len(self.things) - 1]


def sample_scene(seed: int) -> Scene:
    """Draw the scene of `seed`; the same seed gives the same scene on every machine."""
    rng = random.Random(seed)
    # Two things are twice as likely as one: they carry more facts and are the harder case.
    num_things = rng.choice((1, 2, 2))
    return Scene(
        tone=rng.choice(TONES),
        pattern=rng.choice(PATTERNS),
        marks=rng.choice(MARKS),
        things=tuple(
            Thing(
                size=rng.choice(SIZES),
                colour=rng.choice(COLOURS),
                shape=rng.choice(SHAPES),
                motion=rng.choice(MOTIONS),
            )
            for _ in range(num_things)
        ),
        texture_seed=rng.getrandbits(31),
    )

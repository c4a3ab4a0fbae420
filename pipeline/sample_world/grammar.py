"""Captions of a scene, with the character spans of their visual facts.

The grammar is free where real captions are free: sentences and clauses swap, verbs and nouns have
synonyms, adverbs come and go, and some sentences say nothing visual. Several words are visual in
one place and filler in another ("right" / "right away", "light", "plain", "one", "no", "still"),
so that no list of words tells facts from filler.

Templates mark visual words with square brackets; `write_caption` removes the brackets and returns
where they were.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from pipeline.sample_world.scene import Scene, Thing
from pipeline.sample_world.wording import (
    ADVERB,
    ASIDES,
    CHANGE,
    CHANGE_TAIL,
    FILLERS,
    FOOTAGE,
    GLIDE,
    NOUN,
    REST,
    SURFACE,
    WHEN,
)


@dataclass(frozen=True, slots=True)
class WrittenCaption:
    """A caption and the character spans [start, end) of its visual words, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Style:
    """How talkative a caption is; probabilities, 0 to 1."""

    joint_opening: float
    """Of one opening sentence instead of two."""
    when: float
    """Of an adverbial phrase after a motion."""
    comments: bool
    """Whether a comment may follow every part, instead of a few anywhere in the second half."""


BRIEF = Style(joint_opening=0.25, when=0.4, comments=False)
FULL = Style(joint_opening=0.1, when=0.6, comments=True)


def write_caption(scene: Scene, rng: random.Random, style: Style = FULL) -> WrittenCaption:
    """Write one of the many captions of `scene`; `rng` makes every free choice."""
    opening = _opening(scene, rng, style)
    if rng.random() < 0.5:
        parts = [opening, [_marks(scene, rng)], *_things(scene, rng, style)]
    else:
        parts = [opening, *_things(scene, rng, style), [_marks(scene, rng)]]
    sentences = _commented(parts, rng) if style.comments else _padded(parts, rng)
    return _strip(" ".join(_capitalized(sentence) for sentence in sentences))


def _commented(parts: list[list[str]], rng: random.Random) -> list[str]:
    """Most parts get a comment, each place from its own stock and none twice."""
    at_start, between, at_end = (
        rng.sample(FILLERS[place::3], len(FILLERS) // 3) for place in range(3)
    )
    sentences = [*parts[0], at_start.pop()] if rng.random() < 0.7 else [*parts[0]]
    for part in parts[1:]:
        sentences += part
        if rng.random() < 0.65:
            sentences.append(between.pop())
    if rng.random() < 0.8:
        sentences.append(at_end.pop())
    return sentences


def _padded(parts: list[list[str]], rng: random.Random) -> list[str]:
    """Two or three fillers, anywhere but at the beginning."""
    sentences = [sentence for part in parts for sentence in part]
    for filler in rng.sample(FILLERS, rng.choice((2, 2, 2, 3))):
        # Never before the opening: real captions start with what they are about.
        sentences.insert(rng.randint(len(sentences) // 2, len(sentences)), filler)
    return sentences


def _capitalized(sentence: str) -> str:
    first = 1 if sentence.startswith("[") else 0
    return sentence[: first + 1].upper() + sentence[first + 1 :]


def _strip(marked: str) -> WrittenCaption:
    """Remove the brackets of a marked text and remember where they were."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    for piece in re.split(r"(\[[^]]*\])", marked):
        plain = piece.strip("[]")
        if piece.startswith("["):
            spans.append((length, length + len(plain)))
        parts.append(plain)
        length += len(plain)
    return WrittenCaption("".join(parts), tuple(spans))


def _opening(scene: Scene, rng: random.Random, style: Style) -> list[str]:
    """Tone, pattern and number of things, in one or two sentences."""
    footage, surface = rng.choice(FOOTAGE), rng.choice(SURFACE)
    ground = f"[{scene.tone}] [{scene.pattern}] {surface}"
    alone = len(scene.things) == 1
    noun = rng.choice(NOUN) + ("" if alone else "s")
    number = rng.choice(("[one]", "a [single]") if alone else ("[two]", "a [pair] of"))
    if rng.random() < style.joint_opening:
        return [f"the {footage} shows {number} {noun} {rng.choice(('on', 'over'))} a {ground}."]
    setting = rng.choice(
        (
            f"the {footage} opens on a {ground}.",
            f"the {footage} begins with a {ground}.",
            f"this {footage} is set against a {ground}.",
            f"we are looking at a {ground}.",
            f"a {ground} fills the frame.",
        )
    )
    be = "is" if alone else "are"
    aside = rng.choice(ASIDES) if rng.random() < 0.3 else ""
    number_of_things = rng.choice(
        (
            f"there {be} {number} {noun} in view.",
            f"we can see {number} {noun} here.",
            f"the {footage} contains {number} {noun} in total.",
            f"in front of it {be} {number} {noun}.",
        )
    )
    return [setting, aside + number_of_things]


def _marks(scene: Scene, rng: random.Random) -> str:
    """The marks of the bottom edge; "no" makes this a visual negation."""
    mark = rng.choice(("marks", "tiny marks", "white marks"))
    return rng.choice(
        (
            f"[{scene.marks}] {mark} can be found along the bottom edge.",
            f"along the bottom edge there are [{scene.marks}] {mark}.",
            f"there are [{scene.marks}] {mark} at the bottom of the frame.",
            f"the bottom edge carries [{scene.marks}] {mark}.",
        )
    )


def _described(thing: Thing) -> str:
    return f"[{thing.size}] [{thing.colour}] [{thing.shape}]"


def _clause(thing: Thing, rng: random.Random, *, gerund: bool = False) -> str:
    """What the thing does, without its subject: "slowly drifts to the [left]"."""
    form = int(gerund)
    motion = thing.motion
    adverb = rng.choice(("", "", "", rng.choice(ADVERB) + " "))
    if motion in ("left", "right"):
        course = rng.choice((f"to the [{motion}]", f"toward the [{motion}] side", f"[{motion}]"))
        return f"{adverb}{rng.choice(GLIDE)[form]} {course}"
    if motion in ("up", "down"):
        course = rng.choice((f"[{motion}]", f"straight [{motion}]", f"[{motion}] the frame"))
        return f"{adverb}{rng.choice(GLIDE)[form]} {course}"
    if motion == "still":
        return f"{rng.choice(REST)[form]} [still]"
    return f"{adverb}{CHANGE[motion][form]}{rng.choice(CHANGE_TAIL[motion])}"


def _when(rng: random.Random, style: Style) -> str:
    return rng.choice(WHEN) if rng.random() < style.when else ""


def _things(scene: Scene, rng: random.Random, style: Style) -> list[list[str]]:
    """One part a thing, or one part for both."""
    if len(scene.things) == 2 and rng.random() < 0.4:
        return [_together(scene.things[0], scene.things[1], rng, style)]
    return [_in_turn(scene, index, rng, style) for index in range(len(scene.things))]


def _in_turn(scene: Scene, index: int, rng: random.Random, style: Style) -> list[str]:
    """One thing after the other, each with its motion."""
    thing = scene.things[index]
    described = f"a {_described(thing)}"
    if len(scene.things) == 1:
        leads = (
            f"it is {described}",
            f"the camera is focused on {described}",
            f"the main subject is {described}",
            f"our attention goes to {described}",
        )
    elif index == 0:
        leads = (
            f"the first one is {described}",
            f"one of them is {described}",
            f"to begin with, we notice {described}",
            f"right away we can see {described}",
        )
    else:
        leads = (
            f"the other one is {described}",
            f"next to it is {described}",
            f"we also notice {described}",
            f"beside it we can see {described}",
        )
    lead = rng.choice(leads)
    clause_form = rng.randrange(4)
    if clause_form == 0:
        return [f"{lead}, which {_clause(thing, rng)}{_when(rng, style)}."]
    if clause_form == 1:
        return [f"{lead}, {_clause(thing, rng, gerund=True)}{_when(rng, style)}."]
    subject = rng.choice(("it", f"the [{thing.shape}]", f"the [{thing.colour}] {_noun(rng)}"))
    if clause_form == 2:
        return [f"{lead}.", f"{subject} {_clause(thing, rng)}{_when(rng, style)}."]
    return [f"{lead}, and {subject} {_clause(thing, rng)}{_when(rng, style)}."]


def _noun(rng: random.Random) -> str:
    return rng.choice(NOUN)


def _together(first: Thing, second: Thing, rng: random.Random, style: Style) -> list[str]:
    """Both things first, then both motions in either order."""
    pair = f"a {_described(first)} and a {_described(second)}"
    lead = rng.choice((f"they are {pair}.", f"we can see {pair}.", f"{pair} are visible."))
    if first.shape != second.shape:
        names = (f"the [{first.shape}]", f"the [{second.shape}]")
    elif first.colour != second.colour:
        noun = _noun(rng)
        names = (f"the [{first.colour}] {noun}", f"the [{second.colour}] {noun}")
    else:
        names = ("the first one", "the other one")
    moves = [f"{name} {_clause(thing, rng)}" for name, thing in zip(names, (first, second))]
    if rng.random() < 0.3:
        moves.reverse()
    joint = rng.choice((", while ", ", and ", "; "))
    return [lead, f"{moves[0]}{joint}{moves[1]}{_when(rng, style)}."]

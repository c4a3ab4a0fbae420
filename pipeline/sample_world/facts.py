"""The facts that a caption states, and how right they are.

A fact is a triple such as ("first", "colour", "red"): who, which property, which value. The truth
of a scene and the content of any caption, even a flawed one, are both sets of facts, so that a
caption can be scored against its scene or against another caption.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline.sample_world.scene import COLOURS, MARKS, PATTERNS, SHAPES, SIZES, TONES, Scene
from pipeline.sample_world.wording import IDIOMS


class Fact(NamedTuple):
    """One statement: `subject` is "scene", "first" or "second"."""

    subject: str
    attribute: str
    value: str


Facts = frozenset[Fact]

_SUBJECTS = ("first", "second")
_COUNT_WORDS = {"one": "one", "single": "one", "two": "two", "pair": "two"}
_MOTION_WORDS = {
    "left": "left",
    "right": "right",
    "up": "up",
    "down": "down",
    "still": "still",
    "grows": "grow",
    "growing": "grow",
    "shrinks": "shrink",
    "shrinking": "shrink",
    "blinks": "blink",
    "blinking": "blink",
}
VISUAL_WORDS = frozenset(
    (*TONES, *PATTERNS, *MARKS, *_COUNT_WORDS, *SIZES, *COLOURS, *SHAPES, *_MOTION_WORDS)
)
"""Every word that can state a fact; several of them need not ("right away")."""
_NOUN = "shape|object|figure"


def _any(words: tuple[str, ...] | dict[str, str]) -> str:
    return "|".join(words)


# Phrases that name a thing by its place are references; all other idioms say nothing.
_IDIOM = re.compile(
    r"\b(?:" + "|".join(i for i in IDIOMS if i not in ("the first one", "the other one")) + r")\b"
)
_GROUND = re.compile(rf"\b({_any(TONES)}),? ({_any(PATTERNS)})\b")
_COUNT = re.compile(rf"\b({_any(_COUNT_WORDS)}) (?:of )?(?:{_NOUN})s?\b")
_MARK = re.compile(rf"\b({_any(MARKS)}) (?:tiny |white )?marks?\b")
_EVENT = re.compile(
    rf"\b(?P<size>{_any(SIZES)}) (?P<colour>{_any(COLOURS)}) (?P<shape>{_any(SHAPES)})\b"
    rf"|\bthe (?P<again_colour>{_any(COLOURS)}) (?:{_NOUN}|one)\b"
    rf"|\bthe (?P<again_shape>{_any(SHAPES)})\b"
    r"|\bthe (?P<place>first|other|second) one\b"
    rf"|\b(?P<motion>{_any(_MOTION_WORDS)})\b"
)


def scene_facts(scene: Scene) -> Facts:
    """All facts of a scene: four of the whole, and four of each thing."""
    facts = {
        Fact("scene", "tone", scene.tone),
        Fact("scene", "pattern", scene.pattern),
        Fact("scene", "marks", scene.marks),
        Fact("scene", "count", scene.count),
    }
    for subject, thing in zip(_SUBJECTS, scene.things):
        facts |= {
            Fact(subject, "size", thing.size),
            Fact(subject, "colour", thing.colour),
            Fact(subject, "shape", thing.shape),
            Fact(subject, "motion", thing.motion),
        }
    return frozenset(facts)


def caption_facts(caption: str) -> Facts:
    """The facts that a caption states. Contradictory statements are all kept."""
    text = _without_idioms(caption)
    facts: set[Fact] = set()
    for tone, pattern in _GROUND.findall(text):
        facts |= {Fact("scene", "tone", tone), Fact("scene", "pattern", pattern)}
    facts |= {Fact("scene", "count", _COUNT_WORDS[word]) for word in _COUNT.findall(text)}
    facts |= {Fact("scene", "marks", word) for word in _MARK.findall(text)}
    things: list[dict[str, set[str]]] = []
    current: dict[str, set[str]] | None = None
    for event in _EVENT.finditer(text):
        stated = {name: word for name, word in event.groupdict().items() if word is not None}
        if "size" in stated:
            current = {name: {word} for name, word in stated.items()}
            things.append(current)
        elif "motion" in stated:
            if current is not None:
                current.setdefault("motion", set()).add(_MOTION_WORDS[stated["motion"]])
        elif "place" in stated:
            # "The first one is ..." also introduces things, before any is there to refer to.
            place = 0 if stated["place"] == "first" else 1
            current = things[place] if place < len(things) else current
        else:
            name, word = next(iter(stated.items()))
            attribute = name.removeprefix("again_")
            matching = [thing for thing in things if word in thing[attribute]]
            if matching and current not in matching:
                current = matching[0]
            elif not matching and current is not None:
                current[attribute].add(word)  # a contradiction, and kept as one
    # More than two things cannot be told apart by a subject: what is beyond them is wrong anyway.
    for subject, thing_words in zip((*_SUBJECTS, *["extra"] * len(things)), things):
        facts |= {Fact(subject, name, w) for name, words in thing_words.items() for w in words}
    return frozenset(facts)


def visual_spans(caption: str) -> list[tuple[int, int]]:
    """The character spans [start, end) of the words that state facts in any caption, in order."""
    text = _without_idioms(caption)
    spans = [
        match.span(group)
        for pattern in (_GROUND, _COUNT, _MARK, _EVENT)
        for match in pattern.finditer(text)
        for group in range(1, pattern.groups + 1)
        if match.group(group) is not None and group != pattern.groupindex.get("place")
    ]
    return sorted(spans)


def _without_idioms(caption: str) -> str:
    """The caption in lower case, its idioms blanked out; all other characters keep their place."""
    return _IDIOM.sub(lambda idiom: " " * len(idiom.group()), caption.lower())


def facts_right(stated: Facts, truth: Facts) -> float:
    """The share of the properties in `truth` that are stated with their true value only.

    A property that is not stated, or stated with two values, counts as wrong. 0 to 1; `truth`
    must not be empty.
    """
    values: dict[tuple[str, str], set[str]] = {}
    for fact in stated:
        values.setdefault((fact.subject, fact.attribute), set()).add(fact.value)
    right = sum(values.get((f.subject, f.attribute)) == {f.value} for f in truth)
    return right / len(truth)


def facts_f1(stated: Facts, truth: Facts) -> float:
    """The F1 of two sets of facts: 1 if they are equal (also if both are empty), 0 if disjoint."""
    if not stated and not truth:
        return 1.0
    return 2 * len(stated & truth) / (len(stated) + len(truth))

"""The grammar and the parser of facts are each other's inverse, and scores mean what they say."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sample_world.facts import (
    Fact,
    caption_facts,
    facts_f1,
    facts_right,
    scene_facts,
    visual_spans,
)
from pipeline.sample_world.grammar import BRIEF, FULL, Style, write_caption
from pipeline.sample_world.scene import Scene, Thing, sample_scene

seeds = st.integers(0, 2**40)
styles = st.sampled_from([BRIEF, FULL])


@given(scene_seed=seeds, word_seed=seeds, style=styles)
@settings(max_examples=300, deadline=None)
def test_every_caption_states_exactly_the_facts_of_its_scene(
    scene_seed: int, word_seed: int, style: Style
):
    scene = sample_scene(scene_seed)
    caption = write_caption(scene, random.Random(word_seed), style)
    assert caption_facts(caption.text) == scene_facts(scene), caption.text


@given(scene_seed=seeds, word_seed=seeds, style=styles)
@settings(max_examples=300, deadline=None)
def test_spans_are_the_visual_words_in_order(scene_seed: int, word_seed: int, style: Style):
    caption = write_caption(sample_scene(scene_seed), random.Random(word_seed), style)
    assert list(caption.spans) == visual_spans(caption.text), caption.text
    assert all(caption.text[start:end].isalpha() for start, end in caption.spans)
    assert "[" not in caption.text


def test_same_seed_same_scene_and_caption():
    first, second = (write_caption(sample_scene(7), random.Random(3)) for _ in range(2))
    assert first == second
    assert sample_scene(7) == sample_scene(7)
    assert sample_scene(7) != sample_scene(8)


def test_captions_are_free_in_order_and_words():
    captions = {write_caption(sample_scene(7), random.Random(seed)).text for seed in range(50)}
    assert len(captions) > 45
    mark_first = [
        text.index("bottom") < text.index(" circle") for text in captions if " circle" in text
    ]
    assert not mark_first or 0 < sum(mark_first) < len(mark_first)


@pytest.mark.parametrize(
    ("phrase", "stated"),
    [
        ("It moves right away.", set()),
        ("It moves right.", {"right"}),
        ("It is still worth a closer look.", set()),
        ("It stays still.", {"still"}),
        ("Nothing of note is left out.", set()),
        ("The pace never slows down.", set()),
        ("It heads down.", {"down"}),
    ],
)
def test_a_word_is_visual_only_where_it_states_a_fact(phrase: str, stated: set[str]):
    facts = caption_facts("It is a small red ring. " + phrase)
    assert {fact.value for fact in facts if fact.attribute == "motion"} == stated


@pytest.mark.parametrize(
    ("phrase", "marks"),
    [
        ("There are no marks at the bottom.", {"no"}),
        ("There are four tiny marks at the bottom.", {"four"}),
        ("There is no sound.", set()),
        ("One may want to watch it two or three times.", set()),
    ],
)
def test_negations_and_counts(phrase: str, marks: set[str]):
    assert {fact.value for fact in caption_facts(phrase)} == marks


def _scene() -> Scene:
    return Scene("dark", "striped", "two", (Thing("small", "red", "ring", "up"),), 0)


def test_a_wrong_word_costs_its_own_fact_only():
    truth = scene_facts(_scene())
    right = "On a dark striped wall is one shape. There are two marks. A small red ring moves up."
    assert facts_right(caption_facts(right), truth) == 1
    wrong = right.replace("red", "blue")
    assert facts_right(caption_facts(wrong), truth) == pytest.approx(7 / 8)
    assert facts_f1(caption_facts(wrong), truth) == pytest.approx(7 / 8)


def test_a_contradiction_is_not_right():
    truth = scene_facts(_scene())
    caption = (
        "On a dark striped wall is one shape. There are two marks. "
        "A small red ring is there, and the square moves up."
    )
    stated = caption_facts(caption)
    assert {Fact("first", "shape", "ring"), Fact("first", "shape", "square")} <= stated
    assert facts_right(stated, truth) == pytest.approx(7 / 8)


def test_nonsense_states_nothing_and_more_things_than_two_do_not_break():
    assert caption_facts("") == frozenset()
    assert facts_f1(frozenset(), frozenset()) == 1
    assert facts_right(caption_facts("still left up"), scene_facts(_scene())) == 0
    many = "a small red ring, a small blue ring, a large pink cross, a large cyan cross moves up"
    assert {fact.subject for fact in caption_facts(many)} == {"first", "second", "extra"}

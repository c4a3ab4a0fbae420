"""Guards what counts as a fact where there is no judge: visual words and their neighbours."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoding.facts import VisualWords, facts_kept

TEXTS = [
    *("<eos>", "A", ".", "be", "s", "\u010a"),
    *("\u0120a", "\u0120red", "\u0120blue", "\u0120ball", "\u0120cu", "\u0120is"),
    *("\u0120not", "\u0120two", "\u0120rolls", "\u0120quietly"),
]
VISUAL = {"\u0120red", "\u0120blue", "\u0120ball", "\u0120cu", "\u0120rolls"}
LEXICON = [0.3 if text in VISUAL else 0.01 for text in TEXTS]
ids = {text: place for place, text in enumerate(TEXTS)}


def facts(*texts, lexicon=LEXICON):
    tokens = [ids[text if text in ids else "\u0120" + text] for text in texts]
    return VisualWords(TEXTS, lexicon, 0.1)(tokens, "")


def test_words_and_neighbours():
    assert facts("A", "red", "ball", "rolls", "quietly", ".") == Counter(
        [("red",), ("ball",), ("rolls",), ("red", "ball"), ("ball", "rolls")]
    )


def test_a_word_is_whole_if_one_piece_is_visual():
    assert facts("A", "red", "cu", "be", "s", ".", "<eos>") == Counter(
        [("red",), ("cubes",), ("red", "cubes")]
    )


def test_fillers_are_no_facts():
    assert facts("A", "red", "ball", "is", "quietly", ".") == facts("a", "red", "ball")


def test_a_word_said_twice_counts_twice():
    assert facts("ball", ".", "ball")[("ball",)] == 2


def test_attributes_swapped_are_other_facts():
    right = facts("red", "ball", "a", "blue", "cu", "be")
    wrong = facts("blue", "ball", "a", "red", "cu", "be")
    assert right.keys() & wrong.keys() == {("red",), ("blue",), ("ball",), ("cube",)}
    assert facts_kept(wrong, right) == pytest.approx(4 / 7)


@pytest.mark.parametrize("end", [".", "\u010a"])
def test_sentences_may_come_in_another_order(end):
    one, other = ("red", "ball"), ("blue", "cu", "be")
    assert facts(*one, end, *other, end) == facts(*other, end, *one, end)
    assert facts(*one, *other) != facts(*other, *one)


def test_numbers_and_negations_are_facts_whatever_the_lexicon_says():
    assert ("two",) in facts("two", "ball", lexicon=[0.0] * len(TEXTS))
    assert ("not",) in facts("is", "not", "red")


def test_a_vocabulary_without_blanks_has_a_word_per_token():
    words = VisualWords(["wa", "wb", "wc"], [0.0, 1.0, 1.0], 0.5)
    assert words([0, 1, 2], "") == Counter([("wb",), ("wc",), ("wb", "wc")])


def test_facts_kept_is_f1():
    exact = Counter({("a",): 2, ("b",): 1})
    assert facts_kept(exact, exact) == 1
    assert facts_kept(Counter(), Counter()) == 1
    assert facts_kept(Counter(), exact) == 0
    assert facts_kept(Counter({("a",): 1, ("b",): 1}), exact) == pytest.approx(4 / 5)
    assert facts_kept(Counter({("a",): 2, ("b",): 1, ("c",): 1}), exact) == pytest.approx(6 / 7)


@given(*[st.lists(st.sampled_from(range(len(TEXTS))), max_size=30)] * 2)
def test_facts_kept_is_a_share_and_symmetric(loose, exact):
    extract = VisualWords(TEXTS, LEXICON, 0.1)
    a, b = extract(loose, ""), extract(exact, "")
    assert 0 <= facts_kept(a, b) == facts_kept(b, a) <= 1
    assert facts_kept(a, a) == 1

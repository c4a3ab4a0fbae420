"""Guards the labels of the sample world: which tokens are on a fact, however they are cut."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.mismatches import Mismatch
from pipeline.calibration.reading import TargetCaption
from pipeline.calibration.sample_truth import (
    AMBIGUOUS_WORDS,
    SampleTruth,
    TokenSpans,
    true_facts,
)
from pipeline.decoding.facts import facts_kept
from pipeline.sample_world.facts import scene_facts, visual_spans
from pipeline.sample_world.grammar import write_caption
from pipeline.sample_world.scene import COLOURS, SHAPES, sample_scene
from pipeline.sample_world.wording import FILLERS
from tests.unit.calibration.planted import clip_request

seeds = st.integers(0, 2**32)


class Pieces:
    """Texts cut into tokens at given places; id 0 is an end without a text."""

    def __init__(self):
        self._texts = [""]

    def cut(self, text, places):
        return self.tokens(*(text[a:b] for a, b in pairwise([0, *places, len(text)])))

    def tokens(self, *pieces):
        self._texts += pieces
        return (*range(len(self._texts) - len(pieces), len(self._texts)), 0)

    def decode_text(self, token_ids):
        return "".join(self._texts[token] for token in token_ids)


def on_facts(*pieces):
    tokenizer = Pieces()
    return TokenSpans(tokenizer.decode_text, tokenizer.tokens(*pieces)).on_facts()


class TestFacts:
    @given(scene_seed=seeds, wordings=st.tuples(seeds, seeds))
    @settings(max_examples=30, deadline=None)
    def test_two_wordings_of_a_scene_state_its_facts_once_each(self, scene_seed, wordings):
        scene = sample_scene(scene_seed)
        one, other = (write_caption(scene, random.Random(seed)).text for seed in wordings)
        facts = true_facts((), one)
        assert set(facts) == {tuple(fact) for fact in scene_facts(scene)}
        assert set(facts.values()) == {1}
        assert facts_kept(true_facts((), other), facts) == 1

    def test_a_fact_replaced_is_one_lost_of_all(self):
        scene = sample_scene(3)
        text = write_caption(scene, random.Random(0)).text
        facts = true_facts((), text)
        tone = {"light": "dark", "dark": "light"}[scene.tone]
        changed = text.replace(f"{scene.tone} {scene.pattern}", f"{tone} {scene.pattern}")
        assert facts_kept(true_facts((), changed), facts) == pytest.approx(1 - 1 / len(facts))

    def test_ids_do_not_matter(self):
        text = "a small red circle drifts left."
        assert true_facts((1, 2), text) == true_facts((), text) != true_facts((1, 2), "")


class TestTokens:
    @given(scene_seed=seeds, word_seed=seeds, data=st.data())
    @settings(max_examples=40, deadline=None)
    def test_however_a_caption_is_cut_its_tokens_are_on_its_visual_letters(
        self, scene_seed, word_seed, data
    ):
        """By the spans that the grammar wrote, letter by letter."""
        written = write_caption(sample_scene(scene_seed), random.Random(word_seed))
        text = written.text
        places = data.draw(st.sets(st.integers(1, len(text) - 1), max_size=60))
        tokenizer = Pieces()
        tokens = tokenizer.cut(text, sorted(places))
        spans = TokenSpans(tokenizer.decode_text, tokens)
        visual = {place for start, end in written.spans for place in range(start, end)}
        cuts = [0, *sorted(places), len(text), len(text)]
        expected = [any(p in visual for p in range(a, b)) for a, b in pairwise(cuts)]
        assert spans.on_facts() == expected
        assert [spans.is_on_fact(place) for place in range(len(tokens))] == expected

        letters = "".join(c if c.isalpha() else " " for c in text.lower())
        for place, (start, end) in enumerate(pairwise(cuts)):
            before = letters[:start].rpartition(" ")[2] if start < end else ""
            after = letters[end:].partition(" ")[0] if start < end else ""
            whole = before + letters[start:end] + after
            # A blank at either side of the token parts it from its neighbours.
            if letters[start:end].startswith(" "):
                whole = whole[len(before) :]
            if letters[start:end].endswith(" "):
                whole = whole[: len(whole) - len(after)]
            assert spans.words(place) == whole.split()

    def test_a_token_with_the_blank_before_a_word_is_of_that_word_alone(self):
        assert on_facts("a", " small", " red", " circle", " drifts", " left", ".") == [
            *(False, True, True, True, False, True, False),
            False,  # the end
        ]

    def test_a_word_in_pieces_is_on_a_fact_with_each(self):
        assert on_facts("A sma", "ll pur", "ple cir", "cle", " drifts") == [
            *(True, True, True, True, False),
            False,
        ]

    def test_the_same_word_is_on_a_fact_or_not_by_where_it_stands(self):
        pieces = "Right", " away it drifts", " right", "."
        assert on_facts(*pieces) == [False, False, True, False, False]
        tokenizer = Pieces()
        spans = TokenSpans(tokenizer.decode_text, tokenizer.tokens(*pieces))
        assert [spans.words(place) for place in range(5)] == [
            ["right"],
            ["away", "it", "drifts"],
            ["right"],
            [],
            [],
        ]


class TestAmbiguousWords:
    def test_they_are_known_and_the_clear_ones_are_not_among_them(self):
        assert {"right", "left", "light", "plain", "one", "no", "still"} <= AMBIGUOUS_WORDS
        assert AMBIGUOUS_WORDS.isdisjoint((*COLOURS, *SHAPES, "away", "mood"))

    def test_each_is_a_fact_in_one_caption_and_none_in_another(self):
        """Or a word of the list would be no trap."""
        rng = random.Random(1)
        texts = [write_caption(sample_scene(seed), rng).text for seed in range(200)]
        as_fact, as_filler = set(), set()
        for text in texts:
            spans = visual_spans(text)
            as_fact |= {text[start:end].lower() for start, end in spans}
            blanked = list(text.lower())
            for start, end in spans:
                blanked[start:end] = " " * (end - start)
            words = "".join(c if c.isalpha() else " " for c in blanked)
            as_filler |= set(words.split())
        assert as_fact >= AMBIGUOUS_WORDS
        assert as_filler >= AMBIGUOUS_WORDS

    @pytest.mark.parametrize("filler", FILLERS)
    def test_fillers_are_on_no_fact(self, filler):
        assert on_facts(*filler.partition(" ")) == [False] * 4


class TestLabels:
    @pytest.fixture
    def tokenizer(self):
        return Pieces()

    def labels(self, tokenizer, captions, cases):
        """Of cases (caption, position, the pieces of the ending)."""
        mismatches = [Mismatch(caption, position, 0, 0) for caption, position, _ in cases]
        endings = [tokenizer.tokens(*pieces) for _, _, pieces in cases]
        harm = np.arange(len(cases)) % 2 == 0
        found = SampleTruth(tokenizer.decode_text).labels(
            [
                TargetCaption(clip_request(5 + i), tokenizer.tokens(*pieces))
                for i, pieces in enumerate(captions)
            ],
            mismatches,
            endings,
            harm,
        )
        assert found.harmful is harm
        return found

    def test_facts_are_of_all_captions_in_order_without_their_first_tokens(self, tokenizer):
        captions = [("small", " red", " ring", " drifts"), ("up", " it", " drifts", " left")]
        found = self.labels(tokenizer, captions, [])
        assert found.facts.tolist() == [True, True, False, False, *(False, False, True, False)]
        assert found.on_a_fact.shape == found.ambiguous.shape == (0,)
        assert found.facts.dtype == found.on_a_fact.dtype == found.ambiguous.dtype == bool

    def test_a_mismatch_is_on_a_fact_if_its_token_or_the_drafted_one_is(self, tokenizer):
        own = ("A", " small", " red", " ring", " drifts", " left")
        cases = [
            (0, 2, ("A", " small", " blue", " ring")),  # both
            (0, 5, ("A", " small", " red", " ring", " drifts", " slowly")),  # its own alone
            (0, 4, ("A", " small", " red", " ring", " down")),  # the drafted one alone
            (0, 4, ("A", " small", " red", " ring", " heads", " left")),  # neither
        ]
        found = self.labels(tokenizer, [own], cases)
        assert found.on_a_fact.tolist() == [True, True, True, False]
        assert found.ambiguous.tolist() == [False, True, True, False]

    def test_each_mismatch_is_looked_up_in_its_own_caption(self, tokenizer):
        captions = [("It", " drifts", " slowly"), ("A small", " red", " ring")]
        cases = [(1, 1, ("A small", " and", " so")), (0, 1, ("It", " heads", " left"))]
        assert self.labels(tokenizer, captions, cases).on_a_fact.tolist() == [True, False]
        captions = [("It", " drifts", " left"), ("It", " drifts", " slowly")]
        cases = [(index, 2, ("It", " drifts", " calmly")) for index in (1, 0)]
        assert self.labels(tokenizer, captions, cases).ambiguous.tolist() == [False, True]

    def test_a_trap_is_ambiguous_and_yet_not_on_a_fact(self, tokenizer):
        own = ("The", " mood", " is", " light", ".")
        found = self.labels(tokenizer, [own], [(0, 3, ("The", " mood", " is", " calm", "."))])
        assert found.ambiguous.tolist() == [True]
        assert found.on_a_fact.tolist() == [False]

    def test_a_piece_of_an_ambiguous_word_is_as_ambiguous(self, tokenizer):
        cases = [(0, 2, ("It drifts", " le", "ft")), (0, 2, ("It drifts", " le", "isurely"))]
        found = self.labels(tokenizer, [("It drifts", " le", "ft")], cases)
        assert found.ambiguous.tolist() == [True, True]
        found = self.labels(tokenizer, [("It drifts", " le", "isurely")], cases)
        assert found.ambiguous.tolist() == [True, False]

    def test_a_missing_ending_is_an_error(self, tokenizer):
        caption = TargetCaption(clip_request(5), tokenizer.tokens("A", " ring"))
        truth = SampleTruth(tokenizer.decode_text)
        with pytest.raises(ValueError):
            truth.labels([caption], [Mismatch(0, 1, 0, 0)], [], np.ones(1, bool))

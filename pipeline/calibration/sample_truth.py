"""What the sample world knows of captions: labels to judge scores by, never to calibrate with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipeline.calibration.evaluation import Bools, Labels
from pipeline.calibration.harm import DecodeText
from pipeline.calibration.mismatches import Mismatch
from pipeline.calibration.reading import TargetCaption
from pipeline.decoding.facts import Facts
from pipeline.sample_world.facts import VISUAL_WORDS, caption_facts, visual_spans
from pipeline.sample_world.wording import IDIOMS

AMBIGUOUS_WORDS = frozenset(
    word for idiom in IDIOMS for word in idiom.split() if word in VISUAL_WORDS
)
"""Words that are visual in one sentence and filler in another."""
_WORD = re.compile(r"[a-z]+")


def true_facts(token_ids: Sequence[int], text: str) -> Facts:
    """The statements of a caption; a FactExtractor."""
    del token_ids
    return Counter(tuple(fact) for fact in caption_facts(text))


class TokenSpans:
    """Where each token of a caption lies in its text. [start, end) in characters."""

    def __init__(self, decode_text: DecodeText, token_ids: Sequence[int]) -> None:
        text = decode_text(token_ids)
        ends = [len(decode_text(token_ids[:count])) for count in range(len(token_ids) + 1)]
        self._spans = list(pairwise(ends))
        self._words = [(w.group(), w.span()) for w in _WORD.finditer(text.lower())]
        self._visual = visual_spans(text)

    def is_on_fact(self, position: int) -> bool:
        """Whether the token is part of a word that states a fact where it stands."""
        start, end = self._spans[position]
        return any(low < end and start < high for low, high in self._visual)

    def on_facts(self) -> list[bool]:
        """The same of all tokens."""
        return [self.is_on_fact(position) for position in range(len(self._spans))]

    def words(self, position: int) -> list[str]:
        """The words that the token is part of, in lower case."""
        start, end = self._spans[position]
        return [word for word, (low, high) in self._words if low < end and start < high]


class SampleTruth:
    """Labels of captions and mismatches; ``decode_text`` is the target's."""

    def __init__(self, decode_text: DecodeText) -> None:
        self._decode_text = decode_text

    def labels(
        self,
        captions: Sequence[TargetCaption],
        mismatches: Sequence[Mismatch],
        endings: Sequence[Sequence[int]],
        harmful: Bools,
    ) -> Labels:
        """All labels; a mismatch is looked at in the caption itself and in its ``endings``."""
        own = [TokenSpans(self._decode_text, caption.token_ids) for caption in captions]
        facts = [spans.on_facts() for spans in own]
        on_a_fact, ambiguous = [], []
        for mismatch, ending in zip(mismatches, endings, strict=True):
            other = TokenSpans(self._decode_text, ending)
            place = mismatch.position
            on_a_fact.append(facts[mismatch.caption][place] or other.is_on_fact(place))
            words = own[mismatch.caption].words(place) + other.words(place)
            ambiguous.append(not AMBIGUOUS_WORDS.isdisjoint(words))
        return Labels(
            harmful=harmful,
            facts=np.array([is_fact for caption in facts for is_fact in caption[1:]], bool),
            on_a_fact=np.array(on_a_fact, bool),
            ambiguous=np.array(ambiguous, bool),
        )

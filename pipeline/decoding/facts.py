"""What a caption states, told without a judge and without a grammar: its visual words.

Facts kept is a proxy: it counts words that carry what is seen, by the visual lexicon of the
calibration (docs/method.md, section 3b), not statements. Synonyms count as different facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

from pipeline.decoding.guards import guarded_token_ids

_BLANK_MARKS = (" ", "\u0120", "\u2581")
_MARKS = "\u0120\u010a"
_SENTENCE_ENDS = frozenset(".!?;\n\u010a")

Facts = Counter[tuple[str, ...]]
"""A multiset, as "two squares, one square" states more than "two squares"."""


class FactExtractor(Protocol):
    """Tells the facts of a caption; of the same caption always the same."""

    def __call__(self, token_ids: Sequence[int], text: str) -> Facts:
        """The facts of generated ids, which decode to the text."""


class VisualWords:
    """The visual words of a caption, and those pairs of them that follow each other in a sentence.

    A word is visual if one of its tokens has a lexicon value above the threshold, or is guarded
    (numbers, negations). The pairs tell "a red ball and a blue cube" from "a blue ball and a red
    cube"; sentences may come in another order. ``token_texts`` and ``lexicon`` are [V], words begin
    at tokens with a leading blank (each token is a word if none has one).
    """

    def __init__(
        self, token_texts: Sequence[str], lexicon: Sequence[float], visual_threshold: float
    ) -> None:
        self._texts = token_texts
        guarded = guarded_token_ids(token_texts)
        self._visual = frozenset(
            token_id
            for token_id, value in enumerate(lexicon)
            if value > visual_threshold or token_id in guarded
        )
        self._marks_blanks = any(text.startswith(_BLANK_MARKS) for text in token_texts)

    def __call__(self, token_ids: Sequence[int], text: str) -> Facts:
        """See FactExtractor; the text is not needed."""
        del text
        facts: Facts = Counter()
        for sentence in self._sentences(token_ids):
            facts.update((word,) for word in sentence)
            facts.update(pairwise(sentence))
        return facts

    def _sentences(self, token_ids: Sequence[int]) -> list[list[str]]:
        """The visual words of each sentence."""
        sentences: list[list[str]] = [[]]
        for tokens in self._words(token_ids):
            if not self._visual.isdisjoint(tokens):
                sentences[-1].append(_letters("".join(self._texts[token] for token in tokens)))
            if any(not _SENTENCE_ENDS.isdisjoint(self._texts[token]) for token in tokens):
                sentences.append([])
        return sentences

    def _words(self, token_ids: Sequence[int]) -> Iterator[list[int]]:
        """Tokens that belong together; punctuation that is a token ends a word."""
        word: list[int] = []
        for token_id in token_ids:
            text = self._texts[token_id]
            begins = text.startswith(_BLANK_MARKS) or not self._marks_blanks or not _letters(text)
            if begins and word:
                yield word
                word = []
            word.append(token_id)
        if word:
            yield word


def _letters(text: str) -> str:
    """Marks are letters to Python."""
    return "".join(c for c in text if c.isalnum() and c not in _MARKS).lower()


def facts_kept(loose: Facts, exact: Facts) -> float:
    """F1 of the loose caption's facts against the exact caption's: 2 |both| / (|loose| + |exact|).

    A fact that is missing and one that is invented weigh alike. 1 if both state nothing.
    """
    total = loose.total() + exact.total()
    return 2 * (loose & exact).total() / total if total else 1.0

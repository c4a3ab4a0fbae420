"""Tokens that are never taken loosely in safe mode, whatever their score (method.md, section 4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred thousand million single couple pair dozen half twice once double triple both
"""
_NEGATIONS = """
    no not none never nor neither nobody nothing nowhere without cannot n't 't isn aren doesn don
    didn wasn weren hasn haven won couldn wouldn shouldn
"""
_STRICT_WORDS = frozenset((_NUMBER_WORDS + _NEGATIONS).split())
_WORD_MARKS = " \t\n\u0120\u2581"  # blanks, and how tokenizers write a leading one


def guarded_token_ids(token_texts: Sequence[str], always: Iterable[int] = ()) -> frozenset[int]:
    """Ids of digits, number words and negations among ``token_texts`` [V], and ``always``.

    ``always`` are end-of-sequence and special tokens. A number word or negation is guarded where
    its first piece is a token of its own; a longer word that begins with it is not.
    """
    guarded = set(always)
    for token_id, text in enumerate(token_texts):
        word = text.strip(_WORD_MARKS).lower()
        if re.search(r"\d", word) or word in _STRICT_WORDS:
            guarded.add(token_id)
    return frozenset(guarded)

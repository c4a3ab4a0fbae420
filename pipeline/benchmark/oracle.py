"""Anchors by the sample world's own knowledge: the upper bound of any anchor score.

An oracle reads the caption so far, so its score follows the caption by the same walk that the rule
takes. It is of the benchmark alone: no recipe can name it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pipeline.decoding.acceptance import RejectionCause, VerifiedBlock
from pipeline.decoding.anchor_scores import AnchorScore
from pipeline.decoding.loose import NO_SHIFTS, mismatches, walk
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import PrefillOutput
from pipeline.sample_world.facts import VISUAL_WORDS, visual_spans
from pipeline.sample_world.wording import GLIDE, REST

DecodeText = Callable[[Sequence[int]], str]

_WORD = re.compile(r"[a-z]+")
_PLACES = frozenset(["first", "second", "other"])
"""Words that say which thing a fact is about."""
_BEGINNINGS = frozenset(
    word[:length] for word in VISUAL_WORDS for length in range(2, len(word))
) - {"on"}
"""Pieces of a visual word that is cut off, or that a token begins; "on" is a word of its own."""
_REST = "rest"
_VERBS = {form: "glide" for forms in GLIDE for form in forms} | {
    form: _REST for forms in REST for form in forms
}
"""Verbs that say no fact but decide which can follow: nothing "stays left"."""
_CONTEXT_WORDS = 3
"""A fact is told from an idiom by what follows: where fewer words follow, every visual word is
taken for a fact."""


def touches_fact(text: str, start: int, end: int) -> bool:
    """Whether characters [start, end) of a caption, or of its beginning, are part of a fact."""
    lowered = text.lower()
    words = list(_WORD.finditer(lowered))
    spans = visual_spans(text)
    for place, word in enumerate(words):
        if word.end() <= start or end <= word.start():
            continue
        if any(low < word.end() and word.start() < high for low, high in spans):
            return True
        is_near_end = len(words) - place <= _CONTEXT_WORDS
        if word.group() in _PLACES or word.group() in _BEGINNINGS:
            return True
        if is_near_end and word.group() in VISUAL_WORDS:
            return True
    return False


def kind_of_verb(piece: str) -> str | None:
    """What all verbs that begin with the piece have in common; None if nothing or no verb."""
    kinds = {kind for verb, kind in _VERBS.items() if verb.startswith(piece)}
    return kinds.pop() if piece and len(kinds) == 1 else None


@dataclass(slots=True, eq=False)
class FactOracle:
    """The score of one row: infinite where the drafted or the target's token is on a fact, begins
    another kind of motion or ends the caption, else 0.

    To be used in method paper with lambda 1 and no shifts, whose decisions it repeats.
    """

    token_ids: list[int]
    decode_text: DecodeText
    eos_token_ids: AbstractSet[int]

    def __call__(self, block: VerifiedBlock) -> Sequence[float]:
        """K scores; then the caption so far is what the rule will make of this block."""
        scores = [0.0] * len(block.drafted)
        for position in mismatches(block):
            if self._is_at_stake(block, position):
                scores[position] = math.inf
        self._follow(block, scores)
        return scores

    def _is_at_stake(self, block: VerifiedBlock, position: int) -> bool:
        drafted, choice = block.drafted, block.choices[position]
        if drafted[position] in self.eos_token_ids or choice in self.eos_token_ids:
            return True
        verbs = {
            kind_of_verb(self.decode_text([token]).lower()) for token in (drafted[position], choice)
        }
        if len(verbs) > 1 and _REST in verbs:
            return True
        before = [*self.token_ids, *drafted[:position]]
        after = drafted[position + 1 :]
        start = len(self.decode_text(before))
        for token in (drafted[position], choice):
            end = len(self.decode_text([*before, token]))
            if touches_fact(self.decode_text([*before, token, *after]), start, end):
                return True
        return False

    def _follow(self, block: VerifiedBlock, scores: Sequence[float]) -> None:
        objections = {
            j: RejectionCause.ANCHOR if math.isinf(scores[j]) else None for j in mismatches(block)
        }
        kinds, _ = walk(block, objections, self.eos_token_ids, NO_SHIFTS)
        self.token_ids.extend(block.drafted[: len(kinds)])
        if self.token_ids[-1] not in self.eos_token_ids:
            self.token_ids.append(block.choices[len(kinds)])


def oracle_of(
    decode_text: DecodeText, eos_token_ids: AbstractSet[int]
) -> Callable[[CaptionRequest, PrefillOutput], AnchorScore]:
    """What the rules take in place of the configured score."""

    def made(request: CaptionRequest, prefill: PrefillOutput) -> AnchorScore:
        del request
        return FactOracle([int(prefill.logits.argmax())], decode_text, eos_token_ids)

    return made

"""A caption cut into its tokens, each with why it is there.

The caption is what the tokens give together, but the text of one token alone may be less: half a
character, or a space that the whole drops. So tokens are laid along the caption, and where one does
not fit, the text up to the next that does is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.decoding.quantile import is_filler
from pipeline.records import TokenDecision

KINDS = {
    "exact": "drafted, and the target's own choice",
    "relaxed": "drafted, where the target would have chosen another token",
    "shifted": "drafted, where the target says it a little later",
    "correction": "the target's own token, in place of a rejected one",
    "bonus": "the target's own token, after a block that was accepted whole",
}
"""Why a token is there; in the words of both pages."""

ANCHOR = "hangs on the video, so it is held to the target's own choice"
"""What an underlined token is."""

_UNFINISHED = "�"


@dataclass(frozen=True, slots=True)
class TokenText:
    """A piece of a caption. ``kind`` is empty where no token accounts for it."""

    text: str
    kind: str
    is_anchor: bool
    title: str
    """For a pointer that rests on it."""

    @property
    def word(self) -> str:
        """The text without the space that it begins with: that is what is underlined."""
        return self.text.lstrip()

    @property
    def space(self) -> str:
        """The space before the word."""
        return self.text[: len(self.text) - len(self.word)]


def coloured(
    caption: str, decisions: Sequence[TokenDecision], relaxed_share: float | None
) -> list[TokenText]:
    """The pieces, whose texts add up to the caption. Tokens without text give none.

    A token is an anchor if the rule held it to exactness at this lambda (``relaxed_share``).
    """
    pieces: list[TokenText] = []
    place = 0
    tokens = [token for token in decisions if token.text]
    for index, token in enumerate(tokens):
        end = _end(caption, place, tokens[index:])
        if end > place:
            pieces.append(_piece(caption[place:end], token, relaxed_share))
        place = end
    if place < len(caption):
        pieces.append(TokenText(caption[place:], "", False, ""))
    return pieces


def _end(caption: str, place: int, tokens: Sequence[TokenDecision]) -> int:
    """Where the text of the first of ``tokens`` ends, if it begins at ``place``."""
    for text in (tokens[0].text, tokens[0].text.lstrip(" ")):
        if text and caption.startswith(text, place):
            return place + len(text)
    for token in tokens[1:]:
        if _UNFINISHED not in token.text and (found := caption.find(token.text, place)) >= 0:
            return found
    return place if tokens[1:] else len(caption)


def _piece(text: str, token: TokenDecision, relaxed_share: float | None) -> TokenText:
    rank = token.anchor_rank
    is_anchor = (
        rank is not None
        and relaxed_share is not None
        and not is_filler(token.anchor_score or 0.0, rank, relaxed_share)
    )
    parts = [token.kind, *(["anchor"] if is_anchor else [])]
    if rank is not None:
        parts.append(f"more visual than {rank:.0%} of tokens")
    return TokenText(text, token.kind, is_anchor, " · ".join(parts))

"""Text of tokens as they come: pieces that add up to the text of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

_UNFINISHED = "�"
"""What a tokenizer writes for the first bytes of a character whose last ones are yet to come."""

DecodeText = Callable[[Sequence[int]], str]


class TextStream:
    """Turns ids into pieces of text, one for each id.

    ``decode_text`` gives the text of ids without special tokens and outer blanks. Only a window of
    the newest ids is decoded anew, from where the text was last complete. The piece of a token that
    ends within a character, or is blank at the end so far, is empty: the token that completes it
    has all.
    """

    def __init__(self, decode_text: DecodeText) -> None:
        self._decode_text = decode_text
        self._ids: list[int] = []
        self._window = 0
        self._read = 0

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """What each of the next ids adds."""
        return [self._piece(token_id) for token_id in token_ids]

    def _piece(self, token_id: int) -> str:
        self._ids.append(token_id)
        before = self._decode_text(self._ids[self._window : self._read])
        now = self._decode_text(self._ids[self._window :])
        if now.endswith(_UNFINISHED) or len(now) <= len(before):
            return ""
        # The window begins with the last piece, so that blanks between pieces are inner ones.
        self._window, self._read = self._read, len(self._ids)
        return now[len(before) :]


class StopStrings:
    """Passes text on up to the first stop string, which is not part of it.

    What may be the beginning of one is held back until the text goes on otherwise.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.has_stopped = False

    def add(self, text: str) -> str:
        """The next text, as far as it is sure to be before a stop string."""
        if self.has_stopped:
            return ""
        text = self._held + text
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that a stop string begins with."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)

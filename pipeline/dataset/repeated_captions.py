"""Are captions suspiciously alike? Equal captions of unequal clips, counted in bounded memory.

A captioner that swaps clips, reads no pixels or has fallen into one answer shows here first: its
captions repeat over clips that have nothing in common.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

MAX_TEXTS = 100_000
"""Texts that are remembered; beyond, a sample of all texts by their hash."""


@dataclass(slots=True)
class _Text:
    frames_digest: str
    num_clips: int = 1
    is_repeated: bool = False


class RepeatedCaptions:
    """The share of clips whose caption is also that of a clip with other frames.

    All clips of a text are in the sample or none is, so the share is unbiased; it is exact while
    there are no more than ``max_texts`` different texts.
    """

    def __init__(self, max_texts: int = MAX_TEXTS) -> None:
        self._max_texts = max_texts
        self._one_in = 1
        self._texts: dict[int, _Text] = {}

    def add(self, text: str, frames_digest: str) -> None:
        """Count a clip."""
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        if key % self._one_in:
            return
        known = self._texts.get(key)
        if known is not None:
            known.num_clips += 1
            known.is_repeated |= known.frames_digest != frames_digest
            return
        self._texts[key] = _Text(frames_digest)
        while len(self._texts) > self._max_texts:
            self._one_in *= 2
            self._texts = {k: t for k, t in self._texts.items() if k % self._one_in == 0}

    @property
    def num_repeated(self) -> int:
        """Clips in the sample whose caption other frames have too."""
        return sum(text.num_clips for text in self._texts.values() if text.is_repeated)

    @property
    def share(self) -> float:
        """Of all clips; 0 of none."""
        num_clips = sum(text.num_clips for text in self._texts.values())
        return self.num_repeated / num_clips if num_clips else 0.0

"""Drafts without a model: what followed the newest tokens earlier in this caption, or in others.

Prompt lookup as in vLLM (``prompt_lookup_max``, ``prompt_lookup_min``): the longest suffix of the
caption that occurred before gives the draft. The prompt itself is not searched: it is a video and
one question.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.decoding.proposer import NO_PROPOSAL, Proposal
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import PrefillOutput

MAX_CORPUS_TOKENS = 200_000
"""Of earlier captions; the oldest are forgotten beyond it."""


@dataclass(slots=True, eq=False)
class _Text:
    """A caption and, for each n-gram of it, where its newest occurrence ends."""

    token_ids: list[int] = field(default_factory=list)
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    num_indexed: int = 0


class NgramProposer:
    """Looks suffixes up in the row's own text, then in a bounded corpus; implements Proposer.

    With ``remembers`` the captions that ended join the corpus. Then a row's drafts depend on what
    was captioned before: its speed does, and with a lossless rule its caption does not. Loose rules
    keep some drafted tokens for being drafted, so with them nothing may be remembered.
    """

    def __init__(
        self,
        eos_token_ids: frozenset[int],
        *,
        longest: int,
        shortest: int,
        remembers: bool,
        max_corpus_tokens: int = MAX_CORPUS_TOKENS,
    ) -> None:
        if shortest > longest:
            raise ValueError(f"prompt_lookup_min {shortest} > prompt_lookup_max {longest}")
        self._eos_token_ids = eos_token_ids
        self._sizes = range(longest, shortest - 1, -1)
        self._remembers = remembers
        self._max_corpus_tokens = max_corpus_tokens
        self._rows: dict[int, _Text] = {}
        self._corpus: deque[list[int]] = deque()
        self._corpus_tokens = 0
        self._corpus_ends: dict[tuple[int, ...], tuple[list[int], int]] = {}

    def admit(self, slot: int, request: CaptionRequest, prefill: PrefillOutput) -> None:
        """Take a row; see Proposer."""
        del request, prefill
        self._rows[slot] = _Text()

    def read_prompt(self, slot: int, max_tokens: int) -> tuple[int, bool]:
        """There is nothing to read."""
        del slot, max_tokens
        return 0, True

    def propose(
        self, slots: Sequence[int], committed: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Proposal]:
        """Look the newest tokens up; see Proposer."""
        return [
            self._look_up(self._rows[slot], tokens, count) if count > 0 else NO_PROPOSAL
            for slot, tokens, count in zip(slots, committed, wanted)
        ]

    def release(self, slot: int, committed: Sequence[int]) -> None:
        """Forget the row, but not its text."""
        del self._rows[slot]
        if self._remembers:
            self._remember(list(committed))

    def _look_up(self, row: _Text, committed: Sequence[int], wanted: int) -> Proposal:
        text = row.token_ids
        text.extend(committed[len(text) :])
        self._index(row)
        for size in self._sizes:
            if size > len(text):
                continue
            suffix = tuple(text[-size:])
            end = row.ends.get(suffix)
            source, start = (text, end) if end else self._corpus_ends.get(suffix, (text, 0))
            if start:
                return Proposal(self._until_end(source[start : start + wanted]))
        return NO_PROPOSAL

    def _index(self, row: _Text) -> None:
        """Enter the n-grams that something follows, so not the suffixes themselves."""
        text = row.token_ids
        for end in range(row.num_indexed + 1, len(text)):
            for size in self._sizes:
                if size <= end:
                    row.ends[tuple(text[end - size : end])] = end
        row.num_indexed = max(0, len(text) - 1)

    def _until_end(self, token_ids: list[int]) -> list[int]:
        for place, token in enumerate(token_ids):
            if token in self._eos_token_ids:
                return token_ids[: place + 1]
        return token_ids

    def _remember(self, text: list[int]) -> None:
        self._corpus.append(text)
        self._corpus_tokens += len(text)
        for end, gram in self._grams(text):
            self._corpus_ends[gram] = (text, end)
        while self._corpus_tokens > self._max_corpus_tokens:
            oldest = self._corpus.popleft()
            self._corpus_tokens -= len(oldest)
            for _, gram in self._grams(oldest):
                if gram in self._corpus_ends and self._corpus_ends[gram][0] is oldest:
                    del self._corpus_ends[gram]

    def _grams(self, text: list[int]) -> list[tuple[int, tuple[int, ...]]]:
        """Every n-gram that something follows, and where it ends."""
        return [
            (end, tuple(text[end - size : end]))
            for size in self._sizes
            for end in range(size, len(text))
        ]

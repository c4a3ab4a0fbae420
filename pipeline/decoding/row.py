"""One caption in the making: what a decoding loop knows of a row between two rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.decoding.acceptance import AcceptanceRule
from pipeline.decoding.session import ModelInputs
from pipeline.decoding.stats import Round, Seconds, summarise
from pipeline.records import DecodingStats, FinishReason


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a caption ends: at an end-of-sequence token (which is kept), or at ``max_tokens``."""

    eos_token_ids: frozenset[int]
    max_tokens: int

    def finish_reason(self, token_ids: Sequence[int]) -> FinishReason | None:
        """Why the caption is over after ``token_ids``, None if it goes on."""
        if token_ids and token_ids[-1] in self.eos_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(token_ids) >= self.max_tokens else None


@dataclass(frozen=True, slots=True)
class DecodedRow:
    """A finished caption as ids, its end-of-sequence token included."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: DecodingStats


@dataclass(slots=True, eq=False)
class Row:
    """A row between two rounds.

    ``token_ids`` are committed; the newest is in no cache yet: the target caches the prompt and
    ``token_ids[:-1]``. ``slot`` is the row's slot in the target's session and in the draft's.
    """

    slot: int
    prompt: ModelInputs
    stop: StopRule
    rule: AcceptanceRule
    token_ids: list[int]
    draft_prompt_tokens: int = 0
    rounds: list[Round] = field(default_factory=list)
    seconds: Seconds = field(default_factory=Seconds)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.finish_reason = self.stop.finish_reason(self.token_ids)

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self.stop.max_tokens - len(self.token_ids)

    def append(self, step: Round, emitted: Sequence[int]) -> None:
        """Commit one round's tokens."""
        self.rounds.append(step)
        self.token_ids.extend(emitted)
        self.finish_reason = self.stop.finish_reason(self.token_ids)

    def finished(self, max_drafted: int) -> DecodedRow:
        """The result of a row that ended."""
        if self.finish_reason is None:
            raise RuntimeError(f"the row in slot {self.slot} has not ended")
        stats = summarise(
            self.rounds,
            self.seconds,
            prompt_tokens=self.prompt.num_tokens,
            visual_tokens=self.prompt.num_visual_tokens,
            max_drafted=max_drafted,
        )
        return DecodedRow(tuple(self.token_ids), self.finish_reason, stats)


def unfinished(rows: Sequence[Row]) -> list[Row]:
    """The rows that still decode."""
    return [row for row in rows if row.finish_reason is None]

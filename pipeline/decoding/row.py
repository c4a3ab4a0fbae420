"""One caption in the making: what the decoding loop knows of a row between two rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.decoding.acceptance import Acceptance, AcceptanceRule, RowRule
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.stats import Round, Seconds, summarise
from pipeline.records import DecodingStats, FinishReason, TokenDecision

_NO_DRAFT = Round(num_drafted=0, acceptance=Acceptance((), None), target_token=True)


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


class RowListener(Protocol):
    """Who waits for a row's tokens while it is decoded."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more; looked at while the prompt is read."""

    def committed(self, row: Row) -> bool:
        """The row has new tokens; False ends it here (a stop string, or nobody waits)."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodingJob:
    """A request and the way to decode it.

    ``with_decisions`` keeps why each token is there; ``is_shadow`` marks the exact twin of a row.
    ``stop``, ``greedy`` and ``listener`` are of a job that is not decoded as its batch says.
    """

    request: CaptionRequest
    row_rule: RowRule
    with_decisions: bool = False
    is_shadow: bool = False
    stop: StopRule | None = None
    greedy: bool | None = None
    listener: RowListener | None = None


@dataclass(frozen=True, slots=True)
class DecodedRow:
    """A finished caption as ids, its end-of-sequence token included."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: DecodingStats
    decisions: tuple[TokenDecision, ...] = ()


@dataclass(slots=True, eq=False)
class Row:
    """A row between two rounds.

    ``token_ids`` are committed; the newest is in no cache yet: the target caches the prompt and
    ``token_ids[:-1]``. ``slot`` is the row's slot in the target's session, by which the proposer
    knows it too; ``can_draft`` tells whether the proposer has read the prompt. ``num_known`` prompt
    tokens needed no reading.
    """

    slot: int
    job: DecodingJob
    stop: StopRule
    rule: AcceptanceRule
    token_ids: list[int]
    seconds: Seconds = field(default_factory=Seconds)
    can_draft: bool = False
    rounds: list[Round] = field(default_factory=list)
    decisions: list[TokenDecision] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_known: int = 0

    def __post_init__(self) -> None:
        self.finish_reason = self.stop.finish_reason(self.token_ids)
        if self.job.with_decisions:
            (first,) = self.token_ids
            self.decisions.append(TokenDecision(first, "correction", first, None, None))

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self.stop.max_tokens - len(self.token_ids)

    def append_undrafted(self, token: int) -> None:
        """Commit the target's greedy token of a round without a draft."""
        self.rounds.append(_NO_DRAFT)
        self.token_ids.append(token)
        self.finish_reason = self.stop.finish_reason(self.token_ids)
        if self.job.with_decisions:
            self.decisions.append(TokenDecision(token, "correction", token, None, None))

    def append(
        self, drafted: Sequence[int], choices: Sequence[int], acceptance: Acceptance
    ) -> None:
        """Commit the kept prefix of a verified block, and what follows it unless it ended."""
        num_accepted = acceptance.num_accepted
        kept = drafted[:num_accepted]
        ended = num_accepted > 0 and kept[-1] in self.stop.eos_token_ids
        step = Round(len(drafted), acceptance, target_token=not ended)
        self.rounds.append(step)
        self.token_ids.extend(kept)
        if not ended:
            following = acceptance.next_token
            self.token_ids.append(choices[num_accepted] if following is None else following)
        self.finish_reason = self.stop.finish_reason(self.token_ids)
        if self.job.with_decisions:
            self._record(step, choices)

    def _record(self, step: Round, choices: Sequence[int]) -> None:
        acceptance = step.acceptance
        kinds = [str(kind) for kind in acceptance.kinds]
        if step.target_token:
            kinds.append("bonus" if step.is_bonus else "correction")
        emitted = self.token_ids[len(self.token_ids) - len(kinds) :]
        for place, (token, kind) in enumerate(zip(emitted, kinds)):
            is_scored = place < len(acceptance.kinds) and bool(acceptance.scores)
            self.decisions.append(
                TokenDecision(
                    token,
                    kind,
                    choices[place],
                    acceptance.scores[place] if is_scored else None,
                    acceptance.ranks[place] if is_scored else None,
                )
            )

    def tell(self) -> None:
        """Let the listener know of new tokens; the row ends if it has heard enough."""
        listener = self.job.listener
        if listener is not None and not listener.committed(self) and self.finish_reason is None:
            self.finish_reason = FinishReason.STOP

    def finished(self, max_drafted: int) -> DecodedRow:
        """The result of a row that ended; ``max_drafted`` is the most that a round may draft."""
        if self.finish_reason is None:
            raise RuntimeError(f"the row in slot {self.slot} has not ended")
        prompt = self.job.request.target
        stats = summarise(
            self.rounds,
            self.seconds,
            prompt_tokens=prompt.num_tokens,
            visual_tokens=prompt.num_visual_tokens,
            max_drafted=max_drafted,
        )
        return DecodedRow(tuple(self.token_ids), self.finish_reason, stats, tuple(self.decisions))

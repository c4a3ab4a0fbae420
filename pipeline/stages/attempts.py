"""Who may try a clip again, and how often: transient failures in the decode stage, and clips that
end their captioner's process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.config import FailureBudget
from pipeline.failure_kinds import CaptionFailureCode, FailureKind
from pipeline.records import CaptionerTiming, DecodedClip, Failure, Outcome, Stage

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class TransientRetries:
    """Whether a failure is tried again at once, and after which pause; of one decode stage.

    A share of the videos, so that a store that refuses everything costs little more than its
    refusals: each video that is begun brings ``retry_share`` of a retry, and one video's worth is
    there at the start. All stages keep that share, so the whole run does.
    """

    def __init__(
        self,
        budget: FailureBudget,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._max_attempts = budget.max_attempts
        self._share = budget.retry_share
        self._left = float(budget.max_attempts - 1) if budget.retry_share else 0.0
        self._sleep = sleep
        self._chance = chance

    def begin_video(self) -> None:
        """Another video is about to be opened."""
        self._left += self._share

    def allow(self, failure: Failure) -> bool:
        """Whether to try again, once the pause is over: full jitter over a bound that doubles."""
        if failure.kind is not FailureKind.TRANSIENT or failure.attempt >= self._max_attempts:
            return False
        if self._left < 1.0:
            return False
        self._left -= 1.0
        bound_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (failure.attempt - 1))
        self._sleep(self._chance() * bound_s)
        return True


@dataclass(frozen=True, slots=True)
class Admission:
    """How a captioner is to go about a call's clips, by id: in this order."""

    alone: tuple[str, ...]
    """One by one, each told to the ledger: one of them may have ended a captioner."""
    together: tuple[str, ...]
    """In one go, after those."""
    refused: tuple[str, ...]
    """Not at all: a failure row for each."""


class AttemptLedger:
    """Which clips are begun and not ended, for all captioners of a run; what they died of.

    A clip that comes again although it was begun and not ended was in a captioner that died. Which
    of its clips the captioner died of is not known, so each is captioned alone next; one that was
    begun alone ``max_attempts`` times and never ended is refused. Clips that died with a neighbour
    or a node end when they are alone, and then nothing is held against them. Memory is that of the
    clips that are begun, suspected or refused.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._begun: set[str] = set()
        self._suspects: set[str] = set()
        self._tries: dict[str, int] = {}
        self._refused: set[str] = set()

    def begin_call(self, clip_ids: Sequence[str]) -> Admission:
        """A captioner has got clips. Those for ``together`` count as begun if none is ``alone``:
        else ``begin`` says when they are."""
        lost = [clip_id for clip_id in clip_ids if clip_id in self._begun]
        self._suspects.update(lost)
        self._begun.difference_update(lost)
        spent = [clip for clip in clip_ids if self._tries.get(clip, 0) >= self._max_attempts]
        self._refused.update(spent)
        self.end(spent)
        refused = [clip_id for clip_id in clip_ids if clip_id in self._refused]
        alone = [clip_id for clip_id in clip_ids if clip_id in self._suspects]
        # who was never alone first: a clip that has ended a captioner alone would end them again
        alone.sort(key=lambda clip_id: self._tries.get(clip_id, 0))
        others = {*refused, *alone}
        together = tuple(clip_id for clip_id in clip_ids if clip_id not in others)
        if not alone:
            self.begin(together)
        return Admission(tuple(alone), together, tuple(refused))

    def begin(self, clip_ids: Sequence[str]) -> None:
        """These are captioned from now on; a single one counts as alone."""
        self._begun.update(clip_ids)
        if len(clip_ids) == 1:
            (clip_id,) = clip_ids
            self._tries[clip_id] = self._tries.get(clip_id, 0) + 1

    def end(self, clip_ids: Iterable[str]) -> None:
        """These have an outcome, so no captioner died of them."""
        for clip_id in clip_ids:
            self._begun.discard(clip_id)
            self._suspects.discard(clip_id)
            self._tries.pop(clip_id, None)


class Ledger(Protocol):
    """AttemptLedger, or one that is elsewhere."""

    def begin_call(self, clip_ids: Sequence[str]) -> Admission:
        """See AttemptLedger."""

    def begin(self, clip_ids: Sequence[str]) -> None:
        """See AttemptLedger."""

    def end(self, clip_ids: Sequence[str]) -> None:
        """See AttemptLedger."""


Captioned = list[Outcome | CaptionerTiming]


def caption_by_ledger(
    clips: Sequence[DecodedClip],
    caption: Callable[[Sequence[DecodedClip]], Captioned],
    ledger: Ledger,
    max_attempts: int,
) -> Captioned:
    """Outcomes of a call's clips, and timings; refused clips fail without being captioned.

    Clips that are under way when ``caption`` raises, or the process ends, stay begun.
    """
    by_id = {clip.clip_id: clip for clip in clips}
    admission = ledger.begin_call(tuple(by_id))
    outcomes: Captioned = [_crashed(by_id[each], max_attempts) for each in admission.refused]
    for clip_id in admission.alone:
        ledger.begin([clip_id])
        outcomes += caption([by_id[clip_id]])
        ledger.end([clip_id])
    if admission.together:
        if admission.alone:
            ledger.begin(admission.together)
        outcomes += caption([by_id[clip_id] for clip_id in admission.together])
        ledger.end(admission.together)
    return outcomes


def _crashed(clip: DecodedClip, max_attempts: int) -> Failure:
    times = "time" if max_attempts == 1 else f"{max_attempts} times"
    message = (
        f"its captioner's process ended the {times} that it captioned this clip alone "
        "(failures.max_attempts)"
    )
    code = CaptionFailureCode.CAPTIONER_CRASH
    return Failure(clip.spec.video, clip.spec, Stage.CAPTION, code, message, max_attempts)

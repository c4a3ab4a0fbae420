"""The fidelity budget: loose decoding is tightened when it costs more facts than was promised.

Some clips are decoded exactly too (shadows), and the facts that their loose captions kept are
judged. The promise is on the mean over clips. A step down the ladder is taken when the evidence
that the mean is below the promise is 10 to 1 (pipeline/bounded_mean.py): then, however often one
looks, a step down that is not due happens in at most one of ten runs, if the true mean is just what
was promised, and hardly ever if it is better. Waiting for the mean itself to be below would be
wrong in half of such runs; waiting for an interval around it costs clips while facts are lost.

Each rung begins without a past, as its lambda keeps other facts. A run never goes up again: a rung
was left for a reason, and the shadows that could clear it are not decoded any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.bounded_mean import evidence_below, interval

_ENOUGH_EVIDENCE = 10.0
_LAMBDA_STEPS = (1.0, 0.75, 0.5, 0.25)
_LEAST_LAMBDA = 1e-6
"""Below it there is nothing to tighten but exact decoding."""


@dataclass(frozen=True, slots=True)
class Rung:
    """How loosely rows are decoded: with this lambda (None if the method has none), or exactly."""

    relaxed_share: float | None
    is_exact: bool = False


EXACT_RUNG = Rung(0.0, is_exact=True)
LOSSLESS = Rung(None, is_exact=True)
"""Of methods that are exact anyway."""


def ladder(relaxed_share: float | None) -> tuple[Rung, ...]:
    """From the configured lambda down by quarters of it; the last rung is exact decoding."""
    if relaxed_share is None or relaxed_share < _LEAST_LAMBDA:
        return Rung(relaxed_share), EXACT_RUNG
    return *(Rung(relaxed_share * step) for step in _LAMBDA_STEPS), EXACT_RUNG


@dataclass(frozen=True, slots=True)
class RungReport:
    """What shadows showed of one rung.

    facts_kept is the mean over clips, with a 95 % interval that holds however often one looks
    (1, and 0 to 1, of no clips); differing is the share of captions whose text differed at all.
    """

    relaxed_share: float | None
    is_exact: bool
    num_clips: int
    facts_kept: float
    facts_kept_low: float
    facts_kept_high: float
    differing: float


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """The budget's state: the rungs that were in force, the last one still is."""

    min_facts_kept: float
    rungs: tuple[RungReport, ...]

    @property
    def was_tightened(self) -> bool:
        """Whether lambda is below what was configured."""
        return len(self.rungs) > 1


@dataclass(slots=True)
class _Seen:
    kept: Counter[float] = field(default_factory=Counter)
    num_differing: int = 0

    def report(self, rung: Rung) -> RungReport:
        num_clips = self.kept.total()
        total = sum(value * count for value, count in self.kept.items())
        low, high = interval(self.kept)
        return RungReport(
            rung.relaxed_share,
            rung.is_exact,
            num_clips,
            total / num_clips if num_clips else 1.0,
            low,
            high,
            self.num_differing / num_clips if num_clips else 0.0,
        )


class FidelityBudget:
    """Says which rung is in force; told of each shadowed clip. It looks at no clock.

    Raises ValueError if the last rung is not exact decoding, or it is not the only one.
    """

    def __init__(self, rungs: Sequence[Rung], min_facts_kept: float, min_clips: int) -> None:
        if [rung.is_exact for rung in rungs] != [False] * (len(rungs) - 1) + [True]:
            raise ValueError(f"the last rung, and no other, is exact decoding; not so in {rungs}")
        self._rungs = tuple(rungs)
        self._min_facts_kept = min_facts_kept
        self._min_clips = min_clips
        self._seen = [_Seen() for _ in self._rungs]
        self._now = 0

    @property
    def rung(self) -> Rung:
        """In force for rows that are admitted now."""
        return self._rungs[self._now]

    def observe(self, rung: Rung, facts_kept: float, *, differs: bool) -> None:
        """Learn of a clip that was admitted on ``rung``.

        A clip of a rung that is not in force any more counts for that rung and decides nothing.
        """
        place = self._rungs.index(rung)
        seen = self._seen[place]
        seen.kept[facts_kept] += 1
        seen.num_differing += differs
        if place != self._now or rung.is_exact or seen.kept.total() < self._min_clips:
            return
        if evidence_below(seen.kept, self._min_facts_kept) >= _ENOUGH_EVIDENCE:
            self._now += 1

    def report(self) -> FidelityReport:
        """What was seen so far."""
        in_force = zip(self._rungs[: self._now + 1], self._seen)
        return FidelityReport(
            self._min_facts_kept, tuple(seen.report(rung) for rung, seen in in_force)
        )

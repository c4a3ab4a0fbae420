"""What changed while a run went on: a few numbers for each stretch of time, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

MAX_BINS = 120


@dataclass(slots=True)
class Stretch:
    """Sums over the captions that were made in one stretch of time."""

    num_captions: int = 0
    num_lambdas: int = 0
    lambda_sum: float = 0.0
    num_facts: int = 0
    """Clips that were decoded exactly, too, and had facts to compare."""
    facts_sum: float = 0.0

    def add(self, other: Stretch) -> None:
        """Count what another stretch counted."""
        self.num_captions += other.num_captions
        self.num_lambdas += other.num_lambdas
        self.lambda_sum += other.lambda_sum
        self.num_facts += other.num_facts
        self.facts_sum += other.facts_sum

    @property
    def relaxed_share(self) -> float | None:
        """Mean lambda; None where the method has none."""
        return self.lambda_sum / self.num_lambdas if self.num_lambdas else None

    @property
    def facts_kept(self) -> float | None:
        """Mean share of facts kept; None where nothing was compared."""
        return self.facts_sum / self.num_facts if self.num_facts else None


@dataclass(slots=True)
class Timeline:
    """Stretches of equal length, which doubles whenever there would be more than ``max_bins``."""

    max_bins: int = MAX_BINS
    width_s: int = 1
    _bins: dict[int, Stretch] = field(default_factory=dict)

    def add(
        self, created_at: datetime, relaxed_share: float | None, facts_kept: float | None
    ) -> None:
        """Count a caption; ``created_at`` must carry its time zone."""
        seen = Stretch(
            num_captions=1,
            num_lambdas=int(relaxed_share is not None),
            lambda_sum=relaxed_share or 0.0,
            num_facts=int(facts_kept is not None),
            facts_sum=facts_kept or 0.0,
        )
        self._bins.setdefault(int(created_at.timestamp()) // self.width_s, Stretch()).add(seen)
        while max(self._bins) - min(self._bins) >= self.max_bins:
            self._double()

    def stretches(self) -> list[tuple[datetime, Stretch]]:
        """Those with captions, by the start of the stretch (UTC)."""
        return [
            (datetime.fromtimestamp(place * self.width_s, UTC), stretch)
            for place, stretch in sorted(self._bins.items())
        ]

    def _double(self) -> None:
        self.width_s *= 2
        merged: dict[int, Stretch] = {}
        for place, stretch in self._bins.items():
            merged.setdefault(place // 2, Stretch()).add(stretch)
        self._bins = merged

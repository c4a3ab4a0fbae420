"""A job whose prompt is being read: what the decoding loop knows before there is a row."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.decoding.row import DecodingJob, Row
from pipeline.decoding.stats import Seconds


@dataclass(slots=True, eq=False)
class Arrival:
    """Read by the target until there is a row, then by the proposer.

    The first ``num_known`` prompt tokens needed no reading.
    """

    slot: int
    job: DecodingJob
    seconds: Seconds = field(default_factory=Seconds)
    num_known: int = 0
    row: Row | None = None

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for the row that this would become."""
        listener = self.job.listener
        return listener is not None and listener.is_gone

"""The GPU actor: decoded clips in, caption records out; failures of earlier stages pass through."""

from __future__ import annotations

import pyarrow as pa

from actors import wire
from pipeline.config import RunConfig
from pipeline.records import DecodedClip


class Captioner:
    """A Ray Data callable class around one caption stage: target and draft in one process."""

    def __init__(self, config: RunConfig) -> None:
        from pipeline.stages.caption import CaptionStage  # torch: the driver needs none

        self._stage = CaptionStage.load(config)

    def __call__(self, clips: pa.Table) -> pa.Table:
        """One outcome for every row, and the timing of this call if it had clips."""
        records = list(wire.unpack(clips))
        decoded = [record for record in records if isinstance(record, DecodedClip)]
        passed_on = [record for record in records if not isinstance(record, DecodedClip)]
        return wire.pack([*passed_on, *self._stage(decoded)])

"""The GPU actor: decoded clips in, caption records out; failures of earlier stages pass through."""

from __future__ import annotations

import pyarrow as pa

from actors import wire
from actors.attempt_ledger import RemoteLedger
from pipeline.config import RunConfig
from pipeline.records import DecodedClip
from pipeline.stages.attempts import caption_by_ledger


class Captioner:
    """A Ray Data callable class around one caption stage: target and draft in one process."""

    def __init__(self, config: RunConfig, ledger: RemoteLedger) -> None:
        from pipeline.stages.caption import CaptionStage  # torch: the driver needs none

        self._stage = CaptionStage.load(config)
        self._ledger = ledger
        self._max_attempts = config.failures.max_attempts

    def __call__(self, clips: pa.Table) -> pa.Table:
        """One outcome for every row, and the timings of this call if it had clips.

        A clip that this process may die of is captioned alone, or fails (pipeline/stages/attempts).
        """
        records = list(wire.unpack(clips))
        decoded = [record for record in records if isinstance(record, DecodedClip)]
        passed_on = [record for record in records if not isinstance(record, DecodedClip)]
        if not decoded:
            return wire.pack(passed_on)
        outcomes = caption_by_ledger(decoded, self._stage, self._ledger, self._max_attempts)
        return wire.pack([*passed_on, *outcomes])

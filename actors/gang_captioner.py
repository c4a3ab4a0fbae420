"""A captioner whose target is held by a gang of ranks; it builds a lost gang anew."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from actors import wire
from actors.attempt_ledger import RemoteLedger
from actors.errors import GangError, WorkerError
from actors.gang import Gang
from pipeline.config import RunConfig
from pipeline.records import CaptionerTiming, DecodedClip, Outcome
from pipeline.stages.attempts import caption_by_ledger

_GAVE_UP = 70
"""Exit code of a captioner that gave up: Ray Data starts it elsewhere and hands its clips out."""


class GangCaptioner:
    """A Ray Data callable class around one gang. It holds no model and next to no CPU itself.

    Raises WorkerError if no gang can be started, ModelLoadError or PairError.
    """

    def __init__(self, config: RunConfig, ledger: RemoteLedger) -> None:
        self._config = config
        self._ledger = ledger
        self._gang: Gang | None = None
        self._num_rebuilds = 0
        self._mended: list[str] = []
        self._has_captioned = False
        self._gang = self._started()

    def __call__(self, clips: pa.Table) -> pa.Table:
        """One outcome for every row, and the timing of this call if it had clips.

        A gang that is lost is built anew and captions the clips of this call again: each alone, so
        that one that gangs die of is found (pipeline/stages/attempts). After max_rebuilds in a row
        this process ends. Raises what captioning raises.
        """
        records = list(wire.unpack(clips))
        decoded = [record for record in records if isinstance(record, DecodedClip)]
        passed_on = [record for record in records if not isinstance(record, DecodedClip)]
        if not decoded:
            return wire.pack(passed_on)

        def caption(some: Sequence[DecodedClip]) -> list[Outcome | CaptionerTiming]:
            is_all = not passed_on and len(some) == len(decoded)
            return self._caption(clips if is_all else wire.pack(some))

        max_attempts = self._config.failures.max_attempts
        while True:
            self._gang = self._gang or self._started()
            try:
                outcomes = caption_by_ledger(decoded, caption, self._ledger, max_attempts)
            except GangError as error:
                self._lose(self._gang, error)
                continue
            if self._mended and not any(isinstance(o, CaptionerTiming) for o in outcomes):
                outcomes.append(CaptionerTiming(waited_s=0.0, busy_s=0.0))  # all were refused
            return wire.pack([*passed_on, *map(self._with_incidents, outcomes)])

    def _caption(self, table: pa.Table) -> list[Outcome | CaptionerTiming]:
        assert self._gang is not None  # started before any clip is begun
        outcomes = list(wire.unpack(self._gang.caption(table)))
        self._num_rebuilds = 0
        self._has_captioned = True
        return outcomes

    def _started(self) -> Gang:
        """A new gang; one that is lost while it starts counts as lost."""
        while True:
            started = time.monotonic()
            try:
                self._gang = gang = Gang(self._config)
            except GangError as error:
                self._lose(None, error)
                continue
            if self._num_rebuilds:
                self._mended[-1] += f"; it was built anew in {time.monotonic() - started:.1f} s"
            return gang

    def _lose(self, gang: Gang | None, error: GangError) -> None:
        self._mended.append(f"a gang was lost: {error}")
        if gang is not None:
            gang.close()
        self._gang = None
        self._num_rebuilds += 1
        if self._num_rebuilds > self._config.cluster.gang.max_rebuilds:
            if not self._has_captioned:
                raise WorkerError(
                    f"no gang of {self._config.models.tensor_parallel_size} ranks could be started "
                    f"in {self._num_rebuilds} attempts: {error}"
                ) from error
            print(*self._mended, sep="\n", flush=True)
            # Not an exception, which would end the run: a dead worker's clips go to others.
            os._exit(_GAVE_UP)

    def _with_incidents(self, outcome: object) -> object:
        if not isinstance(outcome, CaptionerTiming):
            return outcome
        mended, self._mended = self._mended, []
        return replace(outcome, mended=tuple(mended))

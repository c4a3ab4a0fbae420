"""The CPU actor: rows of a plan in, decoded clips or failures out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from actors import wire
from actors.errors import WorkerError
from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo
from pipeline.dataset.plan_parts import PlanReader, PlanSlice
from pipeline.stages.decode import DecodeStage
from pipeline.storage import NotFoundError, storage_for


class VideoDecoder:
    """A Ray Data callable class around one decode stage, so one killable child process."""

    def __init__(self, config: RunConfig) -> None:
        self._stage = DecodeStage(config)
        self._plan = PlanReader(storage_for(config.output.uri, config.storage))

    def __call__(self, slices: pa.Table) -> Iterator[pa.Table]:
        """Yield one table for each clip: a long video never lies in memory as a whole."""
        for rows in wire.unpack(slices):
            for planned in self._read(rows):
                for outcome in self._stage(planned):
                    yield wire.pack([outcome])

    def _read(self, rows: PlanSlice) -> Iterator[PlannedVideo]:
        try:
            yield from self._plan.read(rows)
        except NotFoundError as error:
            raise WorkerError(
                f"a decode actor does not find the plan that the driver has written ({error}): "
                "a local output folder must be one that every node sees"
            ) from error

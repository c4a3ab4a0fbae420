"""The CPU actor: planned videos in, decoded clips or failures out."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from actors import wire
from pipeline.config import RunConfig
from pipeline.stages.decode import DecodeStage


class VideoDecoder:
    """A Ray Data callable class around one decode stage, so one killable child process."""

    def __init__(self, config: RunConfig) -> None:
        self._stage = DecodeStage(config)

    def __call__(self, videos: pa.Table) -> Iterator[pa.Table]:
        """Yield one table for each clip: a long video never lies in memory as a whole."""
        for planned in wire.unpack(videos):
            for outcome in self._stage(planned):
                yield wire.pack([outcome])

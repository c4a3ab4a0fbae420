"""The captioning job with a bug: some clips end the process that captions them, as a bad kernel or
the kernel's OOM killer would. `python -m tests.lethal_job` takes the job's arguments."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

import actors.corpus_run
import actors.gang
from actors import wire
from actors.attempt_ledger import RemoteLedger
from actors.captioner import Captioner
from actors.gang_captioner import GangCaptioner
from actors.rank import Rank
from jobs import caption_corpus
from pipeline.config import RunConfig
from pipeline.records import DecodedClip

LETHAL = "lethal"
"""In the name of a video whose clips nobody survives."""


def die_of(clips: Iterable[DecodedClip]) -> None:
    """End this process at once if one of the clips is lethal."""
    if any(LETHAL in Path(clip.spec.video.uri).name for clip in clips):
        os.kill(os.getpid(), signal.SIGKILL)


class MortalCaptioner(Captioner):
    """Dies of lethal clips in the midst of captioning."""

    def __init__(self, config: RunConfig, ledger: RemoteLedger) -> None:
        super().__init__(config, ledger)
        stage = self._stage

        def caption(clips):
            outcomes = stage(clips)
            die_of(clips)
            return outcomes

        self._stage = caption


class MortalRank(Rank):
    """Rank 0 dies of lethal clips."""

    def caption(self, clips: pa.Table) -> pa.Table:
        outcomes = super().caption(clips)
        die_of(wire.unpack(clips))
        return outcomes


class MortalGangCaptioner(GangCaptioner):
    """A captioner of mortal ranks."""

    def __init__(self, config: RunConfig, ledger: RemoteLedger) -> None:
        actors.gang.Rank = MortalRank  # in the captioner's own process
        super().__init__(config, ledger)


if __name__ == "__main__":
    actors.corpus_run.Captioner = MortalCaptioner
    actors.corpus_run.GangCaptioner = MortalGangCaptioner
    sys.exit(caption_corpus.main(sys.argv[1:]))

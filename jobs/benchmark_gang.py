"""Measure gangs, captioners of several ranks: `make bench-gang`.

Parts run in one process or in several; each leaves its raw results under --raw, and the report and
the `gang` key of summary.json are made from all that lies there. Parts: memory (of loading a
checkpoint of 6.9 GB), overhead (decode time against one process), start and recovery (on a Ray
cluster of its own). No part: the report alone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import ray

import actors.gang
from actors import wire
from actors.attempt_ledger import RemoteLedger
from actors.errors import GangError
from actors.gang import Gang
from actors.gang_captioner import GangCaptioner
from actors.rank import Rank, RankStart
from pipeline.benchmark import gang_local, gang_report
from pipeline.benchmark.gang_local import BATCHES, pair_config
from pipeline.benchmark.gang_results import (
    GangStart,
    MemoryPart,
    OverheadPart,
    Recovery,
    RecoveryPart,
    StartPart,
    load_results,
    save_part,
)
from pipeline.benchmark.raw_parts import PartSetting
from pipeline.config import RunConfig
from pipeline.gang.link import LinkAddress
from pipeline.gang.world import Meeting
from pipeline.records import CaptionRecord

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "assets" / "reference_pair" / "target"
PARTS = ("memory", "overhead", "start", "recovery")
_CAPTION_RANKS = 2
_TRIES = 5
Fault = tuple[str, int, signal.Signals]
_FAULTS: tuple[Fault, ...] = (
    ("SIGKILL of a follower", 1, signal.SIGKILL),
    ("SIGKILL of rank 0", 0, signal.SIGKILL),
    ("SIGSTOP of a follower", 1, signal.SIGSTOP),
)

_print = partial(print, flush=True)


def main() -> None:
    """Run the parts, write the report."""
    arguments = _parse()
    run = Run(arguments)
    for part in filter(arguments.parts.__contains__, PARTS):
        _print(f"wrote {save_part(arguments.raw, getattr(run, part)())}")
    _print(f"wrote {gang_report.write(load_results(arguments.raw), arguments.output)}")


class Run:
    """The parts of one command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments

    def memory(self) -> MemoryPart:
        """Ranks that load a large checkpoint, and transformers that does."""
        before = os.getloadavg()[0]
        num_bytes, runs = gang_local.memory_runs(TEMPLATE, self._arguments.scratch, _print)
        return MemoryPart(self._setting(before), num_bytes, tuple(runs))

    def overhead(self) -> OverheadPart:
        """The pair in one process against gangs of one rank and of two."""
        before = os.getloadavg()[0]
        seed, num_clips = self._arguments.seed, self._arguments.clips
        clips, warm_up = gang_local.held_out_clips(seed, num_clips, max(BATCHES), _print)
        runs = gang_local.overhead_runs(clips, warm_up, _print)
        return OverheadPart(self._setting(before), tuple(runs))

    def start(self) -> StartPart:
        """Gangs that start on a cluster, one after the other."""
        before = os.getloadavg()[0]
        starts = []
        with _cluster(), patch.object(actors.gang, "Rank", TimedRank):
            for _ in range(self._arguments.repetitions):
                for num_ranks in (1, _CAPTION_RANKS):
                    gang = TimedGang(pair_config("exact", max(BATCHES), num_ranks))
                    gang.close()
                    starts.append(gang.start)
                    _print(f"start: {gang.start}")
        return StartPart(self._setting(before), tuple(starts))

    def recovery(self) -> RecoveryPart:
        """A gang whose processes are killed and stopped while it captions."""
        before = os.getloadavg()[0]
        config = pair_config("exact", max(BATCHES), _CAPTION_RANKS)
        num_clips = self._arguments.recovery_clips
        clips, _ = gang_local.held_out_clips(self._arguments.seed, num_clips, 1, _print)
        table = wire.pack([each.clip for each in clips])
        recoveries = []
        with _cluster(), closing(WatchedCaptioner(config)) as captioner:
            captioner(table)  # the first call takes longer
            started = time.monotonic()
            texts = _texts(captioner(table))
            undisturbed_s = time.monotonic() - started
            for _ in range(self._arguments.repetitions):
                for fault in _FAULTS:
                    recoveries.append(captioner.recover(table, texts, fault, undisturbed_s / 4))
                    _print(f"recovery: {recoveries[-1]}")
                    captioner(table)  # it goes on working
        return RecoveryPart(
            self._setting(before), config.cluster.gang.heartbeat_s, undisturbed_s, tuple(recoveries)
        )

    def _setting(self, load_before: float) -> PartSetting:
        return PartSetting.now("benchmark_gang.py", sys.argv[1:], load_before, self._arguments.note)


@dataclass(frozen=True, slots=True)
class TimedStart(RankStart):
    """A rank's start with the parts that come before loading, s; ``load_s`` has the meeting too."""

    import_s: float
    meeting_s: float


class TimedRank(Rank):
    """A rank that tells more of its start."""

    def start(self, meeting: Meeting, address: LinkAddress) -> TimedStart:
        """As Rank's."""
        started = time.monotonic()
        from pipeline.gang import member  # torch and transformers

        if meeting.size > 1:
            import deepspeed  # noqa: F401 (else it is imported while the ranks meet)
        import_s = time.monotonic() - started
        join = member.World.join
        meeting_s = 0.0

        def timed_join(*arguments: Any) -> Any:
            nonlocal meeting_s
            joining = time.monotonic()
            world = join(*arguments)
            meeting_s = time.monotonic() - joining
            return world

        with patch.object(member.World, "join", timed_join):
            start = super().start(meeting, address)
        return TimedStart(**asdict(start), import_s=import_s, meeting_s=meeting_s)


class TimedGang(Gang):
    """A gang of timed ranks that tells when each step of its start was done."""

    def __init__(self, config: RunConfig) -> None:
        self._marks = [time.monotonic()]
        super().__init__(config)

    def _start(self, config: RunConfig) -> list[RankStart]:
        self._marks.append(time.monotonic())
        return super()._start(config)

    def _watch(self, calls: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
        results = super()._watch(calls, timeout_s)
        self._marks.append(time.monotonic())
        return results

    @property
    def start(self) -> GangStart:
        """How it went."""
        asked, placed, processes, _, started = self._marks[:5]
        leader = self.starts[0]
        assert isinstance(leader, TimedStart)
        return GangStart(
            num_ranks=len(self.starts),
            placement_s=placed - asked,
            processes_s=processes - placed,
            imports_s=leader.import_s,
            meeting_s=leader.meeting_s,
            loading_s=leader.load_s - leader.meeting_s,
            warm_up_s=leader.warm_up_s,
            total_s=started - asked,
        )


class WatchedCaptioner(GangCaptioner):
    """A captioner that tells when it lost a gang and when it had another."""

    def __init__(self, config: RunConfig) -> None:
        self.lost_at = self.ready_at = 0.0
        self.loss = ""
        super().__init__(config, RemoteLedger.start(config.failures.max_attempts))

    def recover(
        self, table: pa.Table, texts: dict[str, str], fault: Fault, after_s: float
    ) -> Recovery:
        """Signal a rank in the midst of a call. Raises RuntimeError if no call lasts that long."""
        name, rank, number = fault
        self.loss = ""
        for _ in range(_TRIES):
            assert self._gang is not None  # it captioned before
            with ThreadPoolExecutor(1) as pool:
                call = pool.submit(self, table)
                time.sleep(after_s)
                os.kill(self._gang._places[rank].pid, number)
                struck = time.monotonic()
                captions = _texts(call.result())
            if self.loss:
                break
            self(table)  # that call had ended: the next one finds the loss
            self.loss = ""
        else:
            raise RuntimeError(f"{name}: calls end too soon; take more --recovery-clips")
        return Recovery(
            fault=name,
            noticed_s=self.lost_at - struck,
            rebuilt_s=self.ready_at - struck,
            delivered_s=time.monotonic() - struck,
            num_clips=len(texts),
            num_same=sum(captions[clip] == text for clip, text in texts.items()),
            message=re.sub(r" on \S+ is lost", " is lost", self.loss),
        )

    def close(self) -> None:
        """End the gang."""
        if self._gang is not None:
            self._gang.close()

    def _started(self) -> Gang:
        gang = super()._started()
        self.ready_at = time.monotonic()
        return gang

    def _lose(self, gang: Gang | None, error: GangError) -> None:
        if not self.loss:
            self.lost_at, self.loss = time.monotonic(), str(error)
        super()._lose(gang, error)


@contextmanager
def _cluster() -> Iterator[None]:
    """A Ray cluster of this benchmark's own."""
    with (
        tempfile.TemporaryDirectory(prefix="lvspec-ray-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"),
    ):
        ray.init(
            address="local", num_cpus=4, object_store_memory=256 << 20,
            include_dashboard=False, log_to_driver=False, _temp_dir=folder,
        )  # fmt: skip
        try:
            yield
        finally:
            ray.shutdown()


def _texts(outcomes: pa.Table) -> dict[str, str]:
    """Captions by clip."""
    records = [record for record in wire.unpack(outcomes) if isinstance(record, CaptionRecord)]
    return {record.clip_id: record.caption.text for record in records}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to run")
    parser.add_argument("--clips", type=int, default=96, help="of the part overhead")
    parser.add_argument("--recovery-clips", type=int, default=32, help="of one call of recovery")
    parser.add_argument("--repetitions", type=int, default=3, help="of each start and fault")
    parser.add_argument("--seed", type=int, default=1, help="corpus seed (the demo takes 0)")
    parser.add_argument("--scratch", type=Path, help="where 7 GB have room for a while")
    parser.add_argument("--note", default="", help="for the report: what else the machine does")
    parser.add_argument("--raw", type=Path, default=ROOT / "benchmarks" / "raw", help="raw results")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="report folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()

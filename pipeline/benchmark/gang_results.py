"""Raw results of the gang benchmark's parts, as JSON: the report is made from these alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmark import raw_parts
from pipeline.benchmark.gang_memory import MemoryUse
from pipeline.benchmark.raw_parts import PartSetting, load_part
from pipeline.benchmark.runs import ClipRun

FROM_PRETRAINED = 0
"""In place of a number of ranks: one process that loads all of it by transformers."""


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """``num_ranks`` that loaded at once, or FROM_PRETRAINED."""

    num_ranks: int
    uses: tuple[MemoryUse, ...]


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """Loading one checkpoint of ``num_bytes``."""

    setting: PartSetting
    num_bytes: int
    runs: tuple[MemoryRun, ...]


@dataclass(frozen=True, slots=True)
class RankTime:
    """What rank 0 spent on one thing in one phase (decode or prefill), waiting included."""

    phase: str
    what: str
    seconds: float
    calls: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """The same clips by a gang and in one process, in turns of ``batch`` clips.

    ``times`` are of a gang of several.
    """

    num_ranks: int
    method: str
    batch: int
    in_process: tuple[ClipRun, ...]
    gang: tuple[ClipRun, ...]
    times: tuple[RankTime, ...] = ()


@dataclass(frozen=True, slots=True)
class OverheadPart:
    """Of the pair in float32."""

    setting: PartSetting
    runs: tuple[Overhead, ...]


@dataclass(frozen=True, slots=True)
class GangStart:
    """From asking for a gang to its being ready, s.

    ``processes_s`` until all ranks' processes answer; ``imports_s``, ``meeting_s``, ``loading_s``
    and ``warm_up_s`` are those of rank 0 (what it loads includes the draft); ``rest_s`` is what is
    left of ``total_s``: calls, and waiting for slower ranks.
    """

    num_ranks: int
    placement_s: float
    processes_s: float
    imports_s: float
    meeting_s: float
    loading_s: float
    warm_up_s: float
    total_s: float

    @property
    def rest_s(self) -> float:
        """What no other part accounts for."""
        named_s = self.placement_s + self.processes_s + self.imports_s
        return self.total_s - named_s - self.meeting_s - self.loading_s - self.warm_up_s


@dataclass(frozen=True, slots=True)
class StartPart:
    """Starts on one cluster, in this order."""

    setting: PartSetting
    starts: tuple[GangStart, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What followed a fault in a call under way; seconds since the fault.

    ``noticed_s`` until the loss was known, ``rebuilt_s`` until another gang was ready and
    ``delivered_s`` until the interrupted call had all of its captions.
    """

    fault: str
    noticed_s: float
    rebuilt_s: float
    delivered_s: float
    num_clips: int
    num_same: int
    message: str


@dataclass(frozen=True, slots=True)
class RecoveryPart:
    """``heartbeat_s`` as configured; ``undisturbed_s`` is what the same call takes by itself."""

    setting: PartSetting
    heartbeat_s: float
    undisturbed_s: float
    recoveries: tuple[Recovery, ...]


@dataclass(frozen=True, slots=True)
class GangResults:
    """Whatever parts there are."""

    memory: MemoryPart | None = None
    overhead: OverheadPart | None = None
    start: StartPart | None = None
    recovery: RecoveryPart | None = None

    @property
    def settings(self) -> dict[str, PartSetting]:
        """By part."""
        parts = {
            "memory": self.memory,
            "overhead": self.overhead,
            "start": self.start,
            "recovery": self.recovery,
        }
        return {name: part.setting for name, part in parts.items() if part is not None}


_FILES: dict[type[object], str] = {
    MemoryPart: "gang-memory",
    OverheadPart: "gang-overhead",
    StartPart: "gang-start",
    RecoveryPart: "gang-recovery",
}


def save_part(folder: Path, part: MemoryPart | OverheadPart | StartPart | RecoveryPart) -> Path:
    """Write ``gang-<part>.json``."""
    return raw_parts.save_part(folder, _FILES[type(part)], part)


def load_results(folder: Path) -> GangResults:
    """All parts that lie in a folder. Raises pydantic's ValidationError for a broken file."""
    return GangResults(
        memory=load_part(folder, _FILES[MemoryPart], MemoryPart),
        overhead=load_part(folder, _FILES[OverheadPart], OverheadPart),
        start=load_part(folder, _FILES[StartPart], StartPart),
        recovery=load_part(folder, _FILES[RecoveryPart], RecoveryPart),
    )

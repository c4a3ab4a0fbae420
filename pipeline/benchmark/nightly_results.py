"""Raw results of the nightly benchmark's parts, as JSON: the report is made from these alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmark import raw_parts
from pipeline.benchmark.raw_parts import PartSetting, load_part


@dataclass(frozen=True, slots=True)
class ListTime:
    """A listing and nothing else, in a process of its own."""

    num_objects: int
    delay_s: float
    """Before each of the server's answers."""
    in_order: bool
    """By one stream; else many requests at a time."""
    elapsed_s: float
    cpu_s: float
    """Of the listing process; the server is another."""
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class IdsUse:
    """The ids of complete videos in memory, and nothing else."""

    num_ids: int
    elapsed_s: float
    growth_bytes: int


@dataclass(frozen=True, slots=True)
class DriverRun:
    """A run by a scripted captioner in a process of its own; s by the wall clock and of its CPU.

    ``peak_rss_bytes`` is the kernel's high-water mark after each phase, by phase.
    """

    num_objects: int
    num_captions: int
    read_done_s: float
    planning_s: float
    captioning_s: float
    """Until the last commit, the scripted captioner's own time included."""
    captioner_s: float
    """That own time."""
    read_done_cpu_s: float
    planning_cpu_s: float
    captioning_cpu_s: float
    captioner_cpu_s: float
    peak_rss_bytes: dict[str, int]

    @property
    def commit_rate(self) -> float:
        """Rows/s of the wall from records to committed parts; 0 of no rows."""
        return self.num_captions / self.commit_s if self.num_captions else 0.0

    @property
    def commit_cpu_rate(self) -> float:
        """Rows per second of CPU: what a core of its own would do; 0 of no rows."""
        return self.num_captions / self.commit_cpu_s if self.num_captions else 0.0

    @property
    def commit_s(self) -> float:
        """Captioning without the captioner."""
        return self.captioning_s - self.captioner_s

    @property
    def commit_cpu_s(self) -> float:
        """Of the same, CPU."""
        return self.captioning_cpu_s - self.captioner_cpu_s

    @property
    def total_cpu_s(self) -> float:
        """All phases, CPU."""
        return self.read_done_cpu_s + self.planning_cpu_s + self.captioning_cpu_s

    @property
    def total_s(self) -> float:
        """All phases."""
        return self.read_done_s + self.planning_s + self.captioning_s


@dataclass(frozen=True, slots=True)
class ListingPart:
    """Listings, ids, and a first run with the run after it."""

    setting: PartSetting
    listings: tuple[ListTime, ...]
    ids: tuple[IdsUse, ...]
    first: DriverRun
    again: DriverRun


@dataclass(frozen=True, slots=True)
class RerunPart:
    """A run over an unchanged bucket, some times."""

    setting: PartSetting
    runs: tuple[DriverRun, ...]


@dataclass(frozen=True, slots=True)
class StepUse:
    """One step over a large data set, in a process of its own."""

    elapsed_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class VerifyPart:
    """Proving and compacting a synthetic data set of so many captions."""

    setting: PartSetting
    num_rows: int
    num_bytes: int
    """Of all parts."""
    verify: StepUse
    compact: StepUse


@dataclass(frozen=True, slots=True)
class MutationRun:
    """What became of damaged videos in the whole job; the model was scripted."""

    num_videos: int
    num_captions: int
    """Damage that no decoder sees, or that missed the frames which the model sees."""
    failures_by_code: dict[str, int]
    failures_by_kind: dict[str, int]
    failed_by_mutation: dict[str, int]
    videos_by_mutation: dict[str, int]
    problems: tuple[str, ...]
    """What verification finds wrong with the data set."""
    longest_wait_s: float
    """Between two outcomes."""
    elapsed_s: float
    peak_rss_bytes: int
    """Of the job's process; decode processes are others."""

    @property
    def num_rows(self) -> int:
        """Of either table."""
        return self.num_captions + sum(self.failures_by_code.values())


@dataclass(frozen=True, slots=True)
class MutationsPart:
    """A run over mutated videos."""

    setting: PartSetting
    run: MutationRun


NightlyPart = ListingPart | RerunPart | VerifyPart | MutationsPart


@dataclass(frozen=True, slots=True)
class NightlyResults:
    """Whatever parts there are."""

    listing: ListingPart | None = None
    rerun: RerunPart | None = None
    verify: VerifyPart | None = None
    mutations: MutationsPart | None = None

    @property
    def settings(self) -> dict[str, PartSetting]:
        """By part."""
        parts: dict[str, NightlyPart | None] = {
            "listing": self.listing,
            "rerun": self.rerun,
            "verify": self.verify,
            "mutations": self.mutations,
        }
        return {name: part.setting for name, part in parts.items() if part is not None}


_FILES: dict[type[object], str] = {
    ListingPart: "nightly-listing",
    RerunPart: "nightly-rerun",
    VerifyPart: "nightly-verify",
    MutationsPart: "nightly-mutations",
}


def save_part(folder: Path, part: NightlyPart) -> Path:
    """Write ``nightly-<part>.json``."""
    return raw_parts.save_part(folder, _FILES[type(part)], part)


def load_results(folder: Path) -> NightlyResults:
    """All parts that lie in a folder. Raises pydantic's ValidationError for a broken file."""
    return NightlyResults(
        listing=load_part(folder, _FILES[ListingPart], ListingPart),
        rerun=load_part(folder, _FILES[RerunPart], RerunPart),
        verify=load_part(folder, _FILES[VerifyPart], VerifyPart),
        mutations=load_part(folder, _FILES[MutationsPart], MutationsPart),
    )

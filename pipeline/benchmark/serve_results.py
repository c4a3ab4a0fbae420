"""What the endpoint's benchmark measured, and what is reckoned from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmark.raw_parts import PartSetting, load_part

LOAD, SOAK = "serve-load", "serve-soak"


@dataclass(frozen=True, slots=True)
class Answered:
    """One request as its client saw it; s since it was sent.

    ``gaps_s`` are between the chunks that brought text. ``error`` is what came instead of an
    answer; then only ``total_s`` means anything.
    """

    first_token_s: float
    total_s: float
    output_tokens: int
    cached_tokens: int
    gaps_s: tuple[float, ...]
    error: str | None = None

    @property
    def per_token_s(self) -> float:
        """After the first token; 0 of a single one."""
        after = self.output_tokens - 1
        return (self.total_s - self.first_token_s) / after if after > 0 else 0.0


@dataclass(frozen=True, slots=True)
class LoadRun:
    """A turn of ``num_clients`` clients who ask again as soon as they are answered."""

    endpoint: str
    num_clients: int
    elapsed_s: float
    answers: tuple[Answered, ...]


@dataclass(frozen=True, slots=True)
class LoadPart:
    """Endpoints by turns, at each number of clients. ``flags`` are each endpoint's own."""

    setting: PartSetting
    runner: str
    flags: dict[str, list[str]]
    runs: tuple[LoadRun, ...]


@dataclass(frozen=True, slots=True)
class SoakSample:
    """The endpoint's processes at one moment, all together."""

    at_s: float
    rss_bytes: int
    num_fds: int
    num_threads: int
    num_running: int
    num_answered: int
    num_failed: int


@dataclass(frozen=True, slots=True)
class SoakPart:
    """A long time at moderate load: ``num_clients`` who think for ``think_s`` between requests.

    ``num_abandoned`` requests were broken off by their client on purpose, in mid-stream.
    """

    setting: PartSetting
    runner: str
    num_clients: int
    think_s: float
    num_abandoned: int
    samples: tuple[SoakSample, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServeResults:
    """Whatever parts there are."""

    load: LoadPart | None
    soak: SoakPart | None

    @classmethod
    def read(cls, folder: Path) -> ServeResults:
        """Of a folder of raw results. Raises pydantic's ValidationError for a broken file."""
        return cls(load_part(folder, LOAD, LoadPart), load_part(folder, SOAK, SoakPart))

    @property
    def settings(self) -> dict[str, PartSetting]:
        """By part."""
        parts = {"load": self.load, "soak": self.soak}
        return {name: part.setting for name, part in parts.items() if part is not None}

"""The raw results of one part of the benchmark, as JSON: reports are made from these alone.

So parts can run in separate processes, on separate days, and a report can be made again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.sample_world.facts import Fact, Facts


@dataclass(frozen=True, slots=True)
class ClipRun:
    """One clip by one method. ``clip`` numbers the clips of the part.

    Seconds add up over the clips of a call: ``wall_s`` to all of the call's time, ``prefill_s`` and
    ``decode_s`` to what the method says of itself. Counters as in DecodingStats; peers have none.
    """

    clip: int
    text: str
    output_tokens: int
    wall_s: float
    prefill_s: float
    decode_s: float
    draft_s: float = 0.0
    verify_s: float = 0.0
    scoring_s: float = 0.0
    target_steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    loose_tokens: int = 0
    accepted_histogram: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MethodRuns:
    """All clips of one method.

    ``num_speculative_tokens`` is None where the method has none or chooses it itself; ``refused``
    is the error of a method that could not run, word for word, None if it ran.
    """

    method: str
    num_speculative_tokens: int | None
    runs: tuple[ClipRun, ...]
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a part was run with, and on what."""

    commit: str
    date: str
    hardware: str
    command: str
    corpus_seed: int
    dtype: str
    draft_dtype: str
    num_threads: int
    calibration: str | None


@dataclass(frozen=True, slots=True)
class PartRuns:
    """A part at one batch size: methods that took turns on the same clips.

    ``truths[c]`` are the facts of clip c.
    """

    part: str
    batch: int
    setting: Setting
    truths: tuple[Facts, ...]
    methods: tuple[MethodRuns, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.part}-batch{self.batch}"


def save(folder: Path, part: PartRuns) -> Path:
    """Write ``<part>-batch<n>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part.name}.json"
    record = asdict(part) | {"truths": [sorted(map(list, facts)) for facts in part.truths]}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> PartRuns:
    """Read what ``save`` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return PartRuns(
        part=record["part"],
        batch=record["batch"],
        setting=Setting(**record["setting"]),
        truths=tuple(frozenset(Fact(*fact) for fact in facts) for facts in record["truths"]),
        methods=tuple(_method(method) for method in record["methods"]),
    )


def load_all(folder: Path) -> list[PartRuns]:
    """All parts of a folder, by part and batch."""
    parts = [load(path) for path in folder.glob("*-batch*.json")]
    return sorted(parts, key=lambda part: (part.part, part.batch))


def _method(record: dict[str, Any]) -> MethodRuns:
    runs = tuple(
        ClipRun(**{**run, "accepted_histogram": tuple(run["accepted_histogram"])})
        for run in record["runs"]
    )
    return MethodRuns(**{**record, "runs": runs})

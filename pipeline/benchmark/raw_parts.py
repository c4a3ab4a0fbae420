"""Raw results of a benchmark's parts as JSON, one file a part; reports are made from these."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from pipeline.report.provenance import commit, hardware, shown_path

PartT = TypeVar("PartT")
_TOLD_BESIDE = ("--note", "--scratch")
"""The note has a line of its own, and whose scratch folder it was is nothing."""


@dataclass(frozen=True, slots=True)
class PartSetting:
    """What a part was run with, and on what.

    ``load_before`` and ``load_after`` are the machine's load averages over 1 min (this benchmark
    itself included), ``note`` what else it did.
    """

    commit: str
    date: str
    hardware: str
    command: str
    load_before: float
    load_after: float
    note: str

    @classmethod
    def now(cls, job: str, arguments: Sequence[str], load_before: float, note: str) -> PartSetting:
        """At the end of a part of ``python jobs/<job>``."""
        words = [shown_path(word) for word in arguments]
        for option in _TOLD_BESIDE:
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
        return cls(
            commit=commit(),
            date=datetime.now(UTC).date().isoformat(),
            hardware=hardware(),
            command=shlex.join(["python", f"jobs/{job}", *words]),
            load_before=load_before,
            load_after=os.getloadavg()[0],
            note=note,
        )


def save_part(folder: Path, name: str, part: object) -> Path:
    """Write ``<name>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(TypeAdapter(type(part)).dump_json(part) + b"\n")
    return path


def load_part(folder: Path, name: str, kind: type[PartT]) -> PartT | None:
    """What ``save_part`` wrote; None if nothing. Raises pydantic's ValidationError."""
    path = folder / f"{name}.json"
    return TypeAdapter(kind).validate_json(path.read_bytes()) if path.exists() else None

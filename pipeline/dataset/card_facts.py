"""What a data set is, from metadata alone: footers of parts, and what its runs left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pyarrow.parquet as pq
import yaml

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import list_parts
from pipeline.dataset.snapshot import Snapshot, read_pointer
from pipeline.storage import NotFoundError, Storage

_THREADS = 16  # footers that are read at once: small answers, so most of the time is waiting

_SUMS = (
    "num_captions",
    "output_tokens",
    "target_steps",
    "drafted_tokens",
    "accepted_tokens",
    "relaxed_tokens",
    "shifted_tokens",
)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run; of one that did not go to its end nothing but its name is known."""

    run_id: str
    metrics: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says."""

    digest: str
    num_commits: int
    num_rows: Mapping[Table, int]
    has_failure_parts: bool
    config: Mapping[str, Any]
    """Of the newest run, secrets masked; empty if there was none. All runs of a digest agree in
    what changes captions."""
    versions: Mapping[str, Any]
    runs: Sequence[RunFacts]
    """The newest first."""
    totals: Mapping[str, int]
    """Sums over the runs that went to their end."""
    failures_by_code: Mapping[str, int]
    snapshot: Snapshot | None


def card_facts(storage: Storage, layout: Layout) -> CardFacts:
    """Read them; no row is read. Raises StorageError, ArrowException of a damaged footer.

    Rows of commits that a snapshot holds are counted in its description: the work is that of the
    commits since.
    """
    pointer = read_pointer(storage, layout)
    snapshot = pointer[0] if pointer else None
    parts = list_parts(storage, layout)
    since = snapshot.last_commit if snapshot else 0
    num_rows = {}
    for table in Table:
        uris = [layout.part_uri(table, number) for number in parts.of(table) if number > since]
        before = snapshot.of(table).num_rows if snapshot else 0
        num_rows[table] = before + _num_rows(storage, uris)
    runs = _runs(storage, layout)
    totals: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for metrics in (run.metrics for run in runs if run.metrics):
        totals.update({name: metrics.get(name, 0) for name in _SUMS})
        failures.update(metrics.get("failures_by_code", {}))
    newest = runs[0].run_id if runs else None
    return CardFacts(
        digest=layout.uri.rpartition("/")[2],
        num_commits=parts.last,
        num_rows=num_rows,
        has_failure_parts=bool(parts.failures),
        config=_loaded(storage, layout, newest, "config.yaml"),
        versions=_loaded(storage, layout, newest, "versions.json"),
        runs=runs,
        totals=totals,
        failures_by_code=failures,
        snapshot=snapshot,
    )


def shown_name(name: str) -> str:
    """A hub name or URI as it is; of a local path what fits every machine."""
    path = PurePath(name.removeprefix("file://"))
    return "/".join(path.parts[1:][-2:]) if path.is_absolute() else name


def _num_rows(storage: Storage, uris: Sequence[str]) -> int:
    def rows(uri: str) -> int:
        with storage.open(uri) as stream:
            return int(pq.read_metadata(stream).num_rows)

    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(rows, uris))


def _runs(storage: Storage, layout: Layout) -> list[RunFacts]:
    """Runs that captioned, tried to, or found nothing to do; ids sort by time."""
    try:
        folders = list(storage.folders(layout.runs_uri))
    except NotFoundError:
        return []
    run_ids = sorted((uri.rpartition("/")[2] for uri in folders), reverse=True)

    def facts(run_id: str) -> RunFacts:
        return RunFacts(run_id, _loaded(storage, layout, run_id, "metrics.json") or None)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(facts, run_ids))


def _loaded(storage: Storage, layout: Layout, run_id: str | None, name: str) -> Mapping[str, Any]:
    """A file of a run; empty if it is not there, or not what this version understands."""
    if run_id is None:
        return {}
    with suppress(NotFoundError, ValueError, yaml.YAMLError):
        data = storage.read_bytes(layout.run_file_uri(run_id, name))
        value = json.loads(data) if name.endswith(".json") else yaml.safe_load(data)
        return value if isinstance(value, dict) else {}
    return {}

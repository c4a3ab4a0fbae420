"""What a data set is: from footers of parts, from its failures, and from what its runs left."""

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
from pipeline.dataset.snapshot import Snapshot, read_pointer, snapshot_layout
from pipeline.dataset.standing import part_uris, read_failures
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
    """One run; of one that was killed nothing but its name is known."""

    run_id: str
    metrics: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says."""

    digest: str
    num_commits: int
    num_rows: Mapping[Table, int]
    """Captions, and failures that stand."""
    has_failure_parts: bool
    config: Mapping[str, Any]
    """Of the newest run, secrets masked; empty if there was none. All runs of a digest agree in
    what changes captions."""
    versions: Mapping[str, Any]
    runs: Sequence[RunFacts]
    """The newest first."""
    totals: Mapping[str, int]
    """Sums over the runs that left their figures."""
    num_superseded: int
    """Failure rows after which the clip got a caption or failed again."""
    failures_by_code: Mapping[str, int]
    """Of the others."""
    failures_by_kind: Mapping[str, int]
    """Likewise."""
    snapshot: Snapshot | None


def card_facts(storage: Storage, layout: Layout) -> CardFacts:
    """Read them. Raises StorageError, ArrowException of a damaged part.

    Of failures their causes are read, of captions none but footers, unless some clip was tried
    again: then their ids (standing.py). What a snapshot holds is read there, in few files, and its
    captions are counted in its description: the work is that of the commits since.
    """
    pointer = read_pointer(storage, layout)
    snapshot = pointer[0] if pointer else None
    parts = list_parts(storage, layout)
    since = snapshot.last_commit if snapshot else 0
    uris = dict(part_uris(layout, parts, since))
    num_captions = _num_rows(storage, uris[Table.CAPTIONS])
    if snapshot:
        num_captions += snapshot.captions.num_rows
        for table in Table:
            numbers = range(1, snapshot.of(table).num_parts + 1)
            before = snapshot_layout(layout, snapshot.name)
            uris[table] = [*(before.part_uri(table, n) for n in numbers), *uris[table]]
    runs = _runs(storage, layout)
    totals: Counter[str] = Counter()
    for metrics in (run.metrics for run in runs if run.metrics):
        totals.update({name: metrics.get(name, 0) for name in _SUMS})
    failures = read_failures(storage, uris)
    standing = failures.standing.values()
    newest = runs[0].run_id if runs else None
    return CardFacts(
        digest=layout.uri.rpartition("/")[2],
        num_commits=parts.last,
        num_rows={Table.CAPTIONS: num_captions, Table.FAILURES: len(standing)},
        has_failure_parts=bool(parts.failures),
        config=_loaded(storage, layout, newest, "config.yaml"),
        versions=_loaded(storage, layout, newest, "versions.json"),
        runs=runs,
        totals=totals,
        num_superseded=failures.num_rows - len(standing),
        failures_by_code=Counter(failed.code for failed in standing),
        failures_by_kind=Counter(failed.kind.value for failed in standing),
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

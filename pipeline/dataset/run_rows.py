"""The rows of one run, out of a data set that many runs have added to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow.parquet as pq

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import WRITER_KEY, PartList, list_parts
from pipeline.storage import NotFoundError, Storage

_THREADS = 16  # footers that are read at once: small answers, so most of the time is waiting
_ROWS_PER_BATCH = 256


class NoSuchRunError(Exception):
    """The data set has no run of that name, or none at all."""


def run_ids(storage: Storage, layout: Layout) -> list[str]:
    """All runs, the newest first (ids sort by time)."""
    try:
        folders = list(storage.folders(layout.runs_uri))
    except NotFoundError:
        return []
    return sorted((uri.rpartition("/")[2] for uri in folders), reverse=True)


def newest_run(storage: Storage, layout: Layout) -> str:
    """The newest run that ended with rows of its own; if none did, the newest of all.

    Raises NoSuchRunError, StorageError.
    """
    ids = run_ids(storage, layout)
    for run_id in ids:
        metrics = run_metrics(storage, layout, run_id) or {}
        if metrics.get("num_captions") or metrics.get("num_failures"):
            return run_id
    if not ids:
        raise NoSuchRunError(f"no run has left anything in {layout.uri}/runs")
    return ids[0]


def run_metrics(storage: Storage, layout: Layout, run_id: str) -> Mapping[str, Any] | None:
    """What the run's summary was; None of a run that was killed."""
    text = run_file(storage, layout, run_id, "metrics.json")
    with suppress(ValueError):
        value = json.loads(text)
        return value if isinstance(value, dict) else None
    return None


def run_file(storage: Storage, layout: Layout, run_id: str, name: str) -> str:
    """A text that the run left in its folder; empty if it did not."""
    with suppress(NotFoundError):
        return storage.read_bytes(layout.run_file_uri(run_id, name)).decode("utf-8", "replace")
    return ""


def parts_of_run(storage: Storage, layout: Layout, run_id: str) -> PartList:
    """The parts that the run wrote, by the writer's name in their footers: no row is read."""
    parts = list_parts(storage, layout)

    def of(table: Table) -> tuple[int, ...]:
        def is_ours(number: int) -> bool:
            with storage.open(layout.part_uri(table, number)) as stream:
                metadata = pq.read_metadata(stream).metadata or {}
            return metadata.get(WRITER_KEY, b"").decode().rpartition("/")[0] in ("", run_id)

        with ThreadPoolExecutor(_THREADS) as pool:
            ours = list(pool.map(is_ours, parts.of(table)))
        return tuple(number for number, keep in zip(parts.of(table), ours) if keep)

    return PartList(captions=of(Table.CAPTIONS), failures=of(Table.FAILURES))


def iter_run_rows(
    storage: Storage, layout: Layout, table: Table, run_id: str, parts: PartList
) -> Iterator[dict[str, Any]]:
    """The run's rows in ``parts``, in the order of commit; None in columns that a part lacks.

    Few at a time: a row of the token sample is a few hundred objects in Python.
    """
    for number in parts.of(table):
        with storage.open(layout.part_uri(table, number)) as stream:
            file = pq.ParquetFile(stream)
            absent = dict.fromkeys(set(table.schema.names) - set(file.schema_arrow.names))
            for batch in file.iter_batches(_ROWS_PER_BATCH):
                for row in batch.to_pylist():
                    if row["run_id"] == run_id:
                        yield absent | row

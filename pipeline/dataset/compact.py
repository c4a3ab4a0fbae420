"""A snapshot of commits 1..N: written beside the live parts, published by one conditional put.

- Failure rows that a caption or a later attempt supersedes are left out: what stands is whole.
- Nothing live is touched. A snapshot's folder belongs to the one compaction that claimed its name
  by put-if-absent; ``snapshots/latest.json`` names the snapshot to read.
- N is the last commit that can't change any more. Commits before the last are closed; the last one
  is, if its failures part exists or the run that put it has ended (commit.py).
- The pointer is read, with its etag, before the parts are listed, and replaced if it is still that
  version. So of two compactions one wins, a crash leaves the old pointer, and N never goes back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.compact_sort import sorted_batches
from pipeline.dataset.compact_write import PartWriter
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import PartList, list_parts, part_writer
from pipeline.dataset.schema import fits
from pipeline.dataset.snapshot import (
    Snapshot,
    SnapshotTable,
    description_uri,
    pointer_uri,
    read_pointer,
    snapshot_layout,
)
from pipeline.dataset.standing import FailureRows, part_uris, read_failures
from pipeline.progress import StepProgress
from pipeline.storage import (
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    Storage,
    StorageError,
    join_uri,
)

TARGET_BYTES = 256 << 20

_ROWS_PER_BATCH = 4096


class LostRaceError(Exception):
    """Another compaction flipped the pointer first; this one's snapshot is complete but unused."""


class ForeignPartError(Exception):
    """A part has another schema than this version's, so its rows can't be copied."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """The snapshot that the pointer names now. ``is_new``: this compaction wrote it."""

    snapshot: Snapshot
    is_new: bool


def compact(
    storage: Storage,
    dataset_uri: str,
    target_bytes: int = TARGET_BYTES,
    print_line: Callable[[str], None] = lambda line: None,
) -> Compaction | None:
    """Write a snapshot and flip the pointer to it; None of a data set without a closed commit.

    Nothing is written if the pointer names a snapshot of the last closed commit already.
    ``target_bytes`` is the size of a part, as long as the rows suffice. Memory is some multiples of
    it; temporary files take what the rows do. Raises LostRaceError, ForeignPartError, StorageError,
    ArrowException (a damaged part), OSError (no room for temporary files).
    """
    layout = Layout(dataset_uri.rstrip("/"))
    found = read_pointer(storage, layout)
    parts = closed_parts(storage, layout)
    if not parts.last:
        return None
    if found and found[0].last_commit >= parts.last:
        return Compaction(found[0], is_new=False)
    target = _claim(storage, layout, parts.last)
    print_line(f"writing commits 1 to {parts.last} to {target.uri}")
    failures = read_failures(storage, part_uris(layout, parts))
    tables = {
        table: _write_table(
            storage, layout, parts, table, target, target_bytes, print_line, failures
        )
        for table in Table
    }
    snapshot = Snapshot(
        name=target.uri.rpartition("/")[2],
        last_commit=parts.last,
        captions=tables[Table.CAPTIONS],
        failures=tables[Table.FAILURES],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    storage.put(description_uri(target), snapshot.as_json())
    _flip(storage, layout, snapshot, found[1] if found else None)
    return Compaction(snapshot, is_new=True)


def closed_parts(storage: Storage, layout: Layout) -> PartList:
    """The parts of the commits that can't change any more. Raises StorageError."""
    parts = list_parts(storage, layout)
    last = parts.last
    if last and last not in parts.failures and not _has_ended(storage, layout, last):
        last -= 1
    return PartList(
        captions=tuple(number for number in parts.captions if number <= last),
        failures=tuple(number for number in parts.failures if number <= last),
    )


def _has_ended(storage: Storage, layout: Layout, number: int) -> bool:
    """Whether the run that put a commit is over: then it puts no failures to it any more."""
    data = storage.read_bytes(layout.part_uri(Table.CAPTIONS, number))
    run_id = part_writer(data).rpartition("/")[0]
    with suppress(NotFoundError):
        storage.stat(layout.run_file_uri(run_id, "metrics.json"))
        return True
    return False


def _claim(storage: Storage, layout: Layout, last_commit: int) -> Layout:
    """A folder that no other compaction writes to; one that crashed keeps its own."""
    token = uuid.uuid4().hex
    name = f"{last_commit:08d}"
    for folder in (snapshot_layout(layout, each) for each in (name, f"{name}-{token[:6]}")):
        uri, data = join_uri(folder.uri, "writer.json"), json.dumps({"writer": token}).encode()
        try:
            storage.put_if_absent(uri, data)
        except AlreadyExistsError:
            if storage.read_bytes(uri) != data:
                continue
        return folder
    raise AlreadyExistsError(snapshot_layout(layout, name).uri, "the snapshot's folder is taken")


def _write_table(
    storage: Storage,
    layout: Layout,
    parts: PartList,
    table: Table,
    target: Layout,
    target_bytes: int,
    print_line: Callable[[str], None],
    failures: FailureRows,
) -> SnapshotTable:
    numbers = parts.of(table)
    progress = StepProgress(f"reading {table}", len(numbers), print_line)

    def batches() -> Iterator[pa.RecordBatch]:
        for num_done, number in enumerate(numbers, start=1):
            for batch in _read(storage, table, layout.part_uri(table, number)):
                yield batch if table is Table.CAPTIONS else _standing(batch, failures)
            progress.show(num_done)

    writer = PartWriter(storage, target, table, target_bytes)
    for rows in sorted_batches(batches(), table.schema):
        writer.add(rows)
    written = writer.close()
    print_line(
        f"wrote {written.num_rows} {table} in {written.num_parts} files, {written.num_bytes} bytes"
    )
    return written


def _standing(batch: pa.RecordBatch, failures: FailureRows) -> pa.RecordBatch:
    rows = zip(batch.column("clip_id").to_pylist(), batch.column("attempt").to_pylist())
    return batch.filter(pa.array([failures.stands(*row) for row in rows], pa.bool_()))


def _read(storage: Storage, table: Table, uri: str) -> Iterator[pa.RecordBatch]:
    """A part's rows in the table's schema: columns that came later are null."""
    with storage.open(uri) as stream:
        file = pq.ParquetFile(stream)
        if not fits(file.schema_arrow, table.schema):
            raise ForeignPartError(f"{uri} has another schema than {table} of this version")
        for batch in file.iter_batches(_ROWS_PER_BATCH):
            columns = [
                batch.column(field.name)
                if field.name in batch.schema.names
                else pa.nulls(batch.num_rows, field.type)
                for field in table.schema
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _flip(storage: Storage, layout: Layout, snapshot: Snapshot, etag: str | None) -> None:
    """The one conditional put. Raises LostRaceError, StorageError."""
    uri, data = pointer_uri(layout), snapshot.as_json()
    try:
        if etag is None:
            storage.put_if_absent(uri, data)
        else:
            storage.put_if_match(uri, data, etag)
    except (AlreadyExistsError, ObjectChangedError, NotFoundError) as error:
        if _stored(storage, uri) != data:  # else the put had succeeded, its answer was lost
            raise LostRaceError(
                f"another compaction was faster: {uri} has changed, so the snapshot "
                f"{snapshot.name} is complete but nothing names it, and its folder can be removed"
            ) from error


def _stored(storage: Storage, uri: str) -> bytes | None:
    with suppress(StorageError):
        return storage.read_bytes(uri)
    return None

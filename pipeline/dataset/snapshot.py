"""Snapshots: the rows of commits 1..N again, in few large sorted files, beside the live parts.

``<data set>/snapshots/<name>/{captions,failures}/part-00000001.parquet`` and ``snapshot.json``,
which is put last; ``<data set>/snapshots/latest.json`` says the same of the one to read.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.dataset.layout import Layout, Table
from pipeline.storage import NotFoundError, ObjectChangedError, Storage, StorageError, join_uri

_FOLDER = "snapshots"
# of a config digest: an output folder may well be named `snapshots` itself
_SNAPSHOT_URI = re.compile(rf"(.*/[0-9a-f]{{16}})/{_FOLDER}/\d{{8,}}(?:-[0-9a-f]{{6}})?")
_ATTEMPTS_AT_POINTER = 5  # it changes once in a compaction; to meet that twice is luck enough


class SnapshotError(StorageError):
    """What describes a snapshot is not what this version writes."""

    code = "snapshot"


@dataclass(frozen=True, slots=True)
class SnapshotTable:
    """One table of a snapshot."""

    num_rows: int
    num_parts: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished snapshot. ``created_at`` is ISO 8601, UTC."""

    name: str
    last_commit: int
    captions: SnapshotTable
    failures: SnapshotTable
    created_at: str

    def of(self, table: Table) -> SnapshotTable:
        """One of its tables."""
        return self.captions if table is Table.CAPTIONS else self.failures

    def as_json(self) -> bytes:
        """What ``snapshot.json`` and the pointer hold."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def pointer_uri(layout: Layout) -> str:
    """The object that names the snapshot to read."""
    return join_uri(layout.uri, _FOLDER, "latest.json")


def snapshot_layout(layout: Layout, name: str) -> Layout:
    """Where a snapshot's tables lie: as those of a data set do."""
    return Layout(join_uri(layout.uri, _FOLDER, name))


def description_uri(snapshot: Layout) -> str:
    """The object that makes a snapshot complete."""
    return join_uri(snapshot.uri, "snapshot.json")


def dataset_of(uri: str) -> Layout | None:
    """The data set that a snapshot's URI belongs to; None of any other URI."""
    match = _SNAPSHOT_URI.fullmatch(uri.rstrip("/"))
    return Layout(match[1]) if match else None


def read_description(storage: Storage, snapshot: Layout) -> Snapshot:
    """What a snapshot's folder holds. NotFoundError of an unfinished one; SnapshotError."""
    uri = description_uri(snapshot)
    return _parsed(uri, storage.read_bytes(uri))


def read_pointer(storage: Storage, layout: Layout) -> tuple[Snapshot, str] | None:
    """The snapshot to read, and the pointer's etag; None if there is none yet.

    Raises StorageError; SnapshotError if the pointer can't be understood.
    """
    uri = pointer_uri(layout)
    for _ in range(_ATTEMPTS_AT_POINTER):
        try:
            etag = storage.stat(uri).etag
            with storage.open(uri, etag) as stream:
                return _parsed(uri, stream.read()), etag
        except NotFoundError:
            return None
        except ObjectChangedError:
            continue  # flipped between the two requests
    raise SnapshotError(uri, "the pointer changes faster than it can be read")


def _parsed(uri: str, data: bytes) -> Snapshot:
    try:
        values: dict[str, Any] = json.loads(data)
        for table in Table:
            values[table.value] = SnapshotTable(**values[table.value])
        return Snapshot(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(uri, f"not a description of a snapshot ({error})") from error

"""Records as Arrow tables: what crosses between the driver, the decode actors and the captioners.

A record is one binary cell (pickle protocol 5): frames of any shape cross a process boundary as one
copy of their bytes, and every field arrives as it left. Only our own records, made by the same run
on the same cluster, are ever read back. ``kind`` and ``clip_id`` are there for people who look.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [("kind", pa.string()), ("clip_id", pa.string()), ("record", pa.large_binary())],
)


def pack(records: Iterable[Any]) -> pa.Table:
    """A table with one row for each record, in order."""
    rows = [
        {
            "kind": type(record).__name__,
            "clip_id": getattr(record, "clip_id", None),
            "record": pickle.dumps(record, protocol=5),
        }
        for record in records
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def unpack(table: pa.Table) -> Iterator[Any]:
    """The records of a packed table, one at a time (a clip's frames can be large)."""
    for cell in table.column("record"):
        yield pickle.loads(cell.as_buffer())

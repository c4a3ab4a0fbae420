"""Parts: rows as bytes and back, and what a stored data set holds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout, Table, part_number
from pipeline.dataset.schema import Row
from pipeline.storage import NotFoundError, Storage

WRITER_KEY = b"lvspec.writer"
"""Of a part's Parquet footer: who wrote it, as ``<run id>/<a number of its own>``."""
_DONE_COLUMNS = ("video_id", "clip_id", "num_clips")
_ROWS_PER_BATCH = 4096


def encode_part(table: Table, rows: Sequence[Row], writer: str) -> bytes:
    """Parquet (zstd) of the rows. ``writer`` goes into the file's metadata.

    Two writers never make the same bytes, not even of no rows: that is what lets a writer tell its
    own part from another's. A missing value of a required column is an ArrowInvalid.
    """
    schema = table.schema.with_metadata({WRITER_KEY: writer.encode()})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
    return sink.getvalue()


def part_writer(data: bytes) -> str:
    """Who wrote a part."""
    metadata = pq.read_schema(io.BytesIO(data)).metadata or {}
    return str(metadata.get(WRITER_KEY, b"unknown"), "utf-8")


@dataclass(frozen=True, slots=True)
class PartList:
    """The numbers of the parts of both tables, ascending."""

    captions: tuple[int, ...]
    failures: tuple[int, ...]

    @property
    def last(self) -> int:
        """Number of the last commit; 0 if there is none."""
        return max((*self.captions, *self.failures), default=0)

    def of(self, table: Table) -> tuple[int, ...]:
        """The numbers of one table."""
        return self.captions if table is Table.CAPTIONS else self.failures


def list_parts(storage: Storage, layout: Layout) -> PartList:
    """The parts that exist now; a data set without a folder has none."""
    # failures first: captions-N is put before failures-N, so no failures part shows without it
    failures = _list_table(storage, layout, Table.FAILURES)
    return PartList(captions=_list_table(storage, layout, Table.CAPTIONS), failures=failures)


def _list_table(storage: Storage, layout: Layout, table: Table) -> tuple[int, ...]:
    try:
        found = [part_number(item.uri) for item in storage.list(layout.table_uri(table))]
    except NotFoundError:
        return ()
    return tuple(sorted(number for number in found if number is not None))


def iter_rows(
    storage: Storage,
    layout: Layout,
    table: Table,
    columns: Sequence[str] | None = None,
    parts: PartList | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of a table in the order of commit; only ``columns`` are read if they are named.

    A column that a part lacks, because it was written before there was one, is None in its rows.
    """
    wanted = tuple(columns) if columns else tuple(table.schema.names)
    numbers = (parts or list_parts(storage, layout)).of(table)
    for number in numbers:
        yield from iter_part(storage, layout.part_uri(table, number), wanted)


def iter_part(storage: Storage, uri: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of one part; a column that it lacks is None."""
    with storage.open(uri) as stream:
        file = pq.ParquetFile(stream)
        present = [name for name in columns if name in file.schema_arrow.names]
        absent = dict.fromkeys(set(columns) - set(present))
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=present):
            for row in batch.to_pylist():
                yield row | absent


def read_done(storage: Storage, layout: Layout, parts: PartList | None = None) -> DoneClips:
    """The clips that have a row."""
    known = parts or list_parts(storage, layout)
    done = DoneClips()
    for table in Table:
        add_done(done, storage, layout, table, known)
    return done


def add_done(
    done: DoneClips, storage: Storage, layout: Layout, table: Table, parts: PartList
) -> None:
    """Take in the clips that have a row in one of the tables."""
    for row in iter_rows(storage, layout, table, _DONE_COLUMNS, parts):
        done.add(row["video_id"], row["clip_id"], row["num_clips"])

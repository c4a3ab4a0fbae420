"""Rows as they come to Parquet files of about one size."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.snapshot import SnapshotTable
from pipeline.storage import Storage

# of rows in memory: large enough to compress well, small enough to read a file in steps, and to end
# a file near its size, which is known after a row group only
_ROW_GROUP_BYTES = 32 << 20


class PartWriter:
    """Writes one table of a snapshot; a part is in memory until it is put.

    The first part exists also without rows, so that every reader finds the table.
    """

    def __init__(self, storage: Storage, target: Layout, table: Table, target_bytes: int) -> None:
        self._storage = storage
        self._target = target
        self._table = table
        self._target_bytes = target_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._num_rows = self._num_parts = self._num_bytes = 0
        self._open()

    def add(self, rows: pa.Table) -> None:
        """Take rows; they must come in order. Raises StorageError."""
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= min(_ROW_GROUP_BYTES, self._target_bytes):
            self._write_row_groups()

    def close(self) -> SnapshotTable:
        """Put the rest. Raises StorageError."""
        self._write_row_groups()
        if self._rows_in_part or not self._num_parts:
            self._put()
        return SnapshotTable(self._num_rows, self._num_parts, self._num_bytes)

    def _open(self) -> None:
        self._sink = io.BytesIO()
        self._parquet = pq.ParquetWriter(self._sink, self._table.schema, compression="zstd")
        self._rows_in_part = 0

    def _write_row_groups(self) -> None:
        """What waits may be more than a row group: the rows of a small corpus come all at once."""
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        group_bytes = min(_ROW_GROUP_BYTES, self._target_bytes)
        rows_per_group = max(1, rows.num_rows * group_bytes // max(1, self._waiting_bytes))
        self._waiting, self._waiting_bytes = [], 0
        for start in range(0, rows.num_rows, rows_per_group):
            group = rows.slice(start, rows_per_group)
            self._parquet.write_table(group, row_group_size=rows_per_group)
            self._rows_in_part += group.num_rows
            if self._sink.tell() >= self._target_bytes:
                self._put()
                self._open()

    def _put(self) -> None:
        self._parquet.close()
        data = self._sink.getvalue()
        self._num_parts += 1
        self._storage.put(self._target.part_uri(self._table, self._num_parts), data)
        self._num_rows += self._rows_in_part
        self._num_bytes += len(data)

"""Rows sorted by source and clip with bounded memory: sorted runs in temporary files, merged."""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_KEY = ("source_uri", "clip_index", "clip_id")
_RUN_BYTES = 256 << 20  # of rows in memory; an open file for each: 500 of them are 125 GB of rows
_ROWS_PER_BATCH = 1024  # of each run, in memory while merging

_Key = tuple[str, int, str]


def sorted_batches(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, run_bytes: int = _RUN_BYTES
) -> Iterator[pa.Table]:
    """All rows, ascending by source URI (bytes), clip index (none first) and clip id.

    Memory is ``run_bytes`` twice, and a batch of each run. The temporary files, compressed, vanish
    at the end.
    """
    waiting: list[pa.RecordBatch] = []
    num_bytes = 0
    with tempfile.TemporaryDirectory(prefix="lvspec-compact-") as folder, ExitStack() as files:
        runs: list[_Run] = []

        def end_run() -> None:
            path = Path(folder, f"{len(runs):06d}.arrow")
            _write_run(path, _sorted(pa.Table.from_batches(waiting, schema)))
            runs.append(_Run(files.enter_context(pa.OSFile(str(path)))))
            waiting.clear()

        for batch in batches:
            waiting.append(batch)
            num_bytes += batch.nbytes
            if num_bytes >= run_bytes:
                end_run()
                num_bytes = 0
        if not runs:  # a small corpus needs no file
            yield _sorted(pa.Table.from_batches(waiting, schema))
            return
        if waiting:
            end_run()
        yield from _merged(runs)


class _Run:
    """Sorted rows of which one batch is in memory."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._batches = iter(pa.ipc.open_stream(file))
        self.head: Any = next(self._batches, None)
        """None at the end."""

    @property
    def last_key(self) -> _Key:
        """Of the batch in memory."""
        return _key(self.head, self.head.num_rows - 1)

    def take(self, bound: _Key) -> pa.RecordBatch:
        """The rows of the batch that sort up to ``bound``, which may be none."""
        head = self.head
        num_rows = bisect.bisect_right(range(head.num_rows), bound, key=lambda row: _key(head, row))
        if num_rows == head.num_rows:
            self.head = next(self._batches, None)
        else:
            self.head = head.slice(num_rows)
        return head.slice(0, num_rows)


def _merged(runs: list[_Run]) -> Iterator[pa.Table]:
    """Whatever a run still has in its file sorts after its batch in memory.

    So rows up to the least of the batches' last keys are complete. Each round uses up one batch at
    least, and gives a batch of each run at most.
    """
    while active := [run for run in runs if run.head is not None]:
        bound = min(run.last_key for run in active)
        taken = [run.take(bound) for run in active]
        yield _sorted(pa.Table.from_batches([batch for batch in taken if batch.num_rows]))


def _sorted(rows: pa.Table) -> pa.Table:
    # Arrow sorts nulls last: -1 in their place puts a whole video's failure before its clips
    index = pc.fill_null(rows.column("clip_index"), -1)
    keys = pa.table([rows.column("source_uri"), index, rows.column("clip_id")], names=list(_KEY))
    return rows.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _KEY]))


def _key(batch: pa.RecordBatch, row: int) -> _Key:
    """Text compares in Python as its UTF-8 does in Arrow."""
    source_uri, index, clip_id = (batch.column(name)[row].as_py() for name in _KEY)
    return source_uri, -1 if index is None else index, clip_id


def _write_run(path: Path, rows: pa.Table) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, rows.schema, options=options) as writer,
    ):
        writer.write_table(rows, max_chunksize=_ROWS_PER_BATCH)

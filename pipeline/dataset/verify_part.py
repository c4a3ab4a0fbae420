"""One part of a data set, read and checked by itself: what its rows say, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.layout import Table
from pipeline.dataset.schema import fits
from pipeline.dataset.verify_counters import COUNTERS, broken_claim, broken_claims
from pipeline.dataset.verify_ids import as_numbers
from pipeline.dataset.verify_problems import RowProblem
from pipeline.storage import Storage

NO_VALUE = -1
"""Stands for null in ``clip_index`` and ``num_clips``: such a row is of a whole video."""

_COLUMNS = ("video_id", "clip_id", "clip_index", "num_clips", "attempt", "config_digest")
_ROWS_PER_BATCH = 1 << 16


@dataclass(frozen=True, slots=True)
class PartScan:
    """What the checks across parts need of a part, 44 bytes a row, and its own problems."""

    table: Table
    uri: str
    fits: bool
    clip_ids: npt.NDArray[np.uint64]
    video_ids: npt.NDArray[np.uint64]
    clip_index: npt.NDArray[np.int32]
    num_clips: npt.NDArray[np.int32]
    attempt: npt.NDArray[np.int32]
    problems: tuple[RowProblem, ...]
    """Their rows are counted from the part's first."""

    @property
    def num_rows(self) -> int:
        """Rows that were read: none of a part that lacks a column that is needed."""
        return len(self.clip_ids)


def scan_part(storage: Storage, table: Table, uri: str, digest: str) -> PartScan:
    """Read the columns that checks need. Raises StorageError, ArrowException."""
    names = _COLUMNS + (COUNTERS if table is Table.CAPTIONS else ())
    chunks: list[tuple[npt.NDArray[Any], ...]] = []
    problems: list[RowProblem] = []
    first = 0
    with storage.open(uri) as stream:
        file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        # a part of another schema is told as such; of rows that can't be read nothing more is known
        if all(_is_like(schema, table, name) for name in (*names, "source_uri")):
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=list(names)):
                problems.extend(_batch_problems(batch, table, digest, first))
                chunks.append(
                    (
                        as_numbers(batch.column("clip_id")),
                        as_numbers(batch.column("video_id")),
                        _numbers(batch.column("clip_index")),
                        _numbers(batch.column("num_clips")),
                        _numbers(batch.column("attempt")),
                    )
                )
                first += batch.num_rows
    no_ids, no_numbers = np.empty((0, 2), np.uint64), np.empty(0, np.int32)
    columns = zip((no_ids, no_ids, no_numbers, no_numbers, no_numbers), *chunks)
    clip_ids, video_ids, clip_index, num_clips, attempt = map(np.concatenate, columns)
    return PartScan(
        table,
        uri,
        fits(schema, table.schema),
        clip_ids,
        video_ids,
        clip_index,
        num_clips,
        attempt,
        tuple(problems),
    )


def _is_like(schema: pa.Schema, table: Table, name: str) -> bool:
    is_there = schema.get_field_index(name) >= 0
    return is_there and schema.field(name).type.equals(table.schema.field(name).type)


def _numbers(column: pa.Array) -> npt.NDArray[np.int32]:
    numbers: npt.NDArray[np.int32] = column.fill_null(NO_VALUE).to_numpy(zero_copy_only=False)
    return numbers


def _batch_problems(
    batch: pa.RecordBatch, table: Table, digest: str, first: int
) -> list[RowProblem]:
    problems = []
    digests = batch.column("config_digest")
    foreign = pc.not_equal(digests, digest).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(foreign):
        says = f" has the config digest {digests[int(row)].as_py()}, not {digest}"
        problems.append(RowProblem(first + int(row), says))
    index, count = _numbers(batch.column("clip_index")), _numbers(batch.column("num_clips"))
    for row in np.flatnonzero((count != NO_VALUE) & ((index < 0) | (index >= count))):
        says = f" has the index {index[row]} of {count[row]} clips"
        problems.append(RowProblem(first + int(row), says))
    if table is Table.CAPTIONS:
        for claim, broken in broken_claims(batch):
            says = broken_claim("", claim)
            problems.extend(RowProblem(first + int(row), says) for row in np.flatnonzero(broken))
    return problems

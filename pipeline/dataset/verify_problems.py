"""Problems as they are found: all are counted, the first hundred become text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from pipeline.dataset.layout import Table
from pipeline.storage import Storage

MAX_TOLD = 100

_ROWS_PER_BATCH = 1 << 14


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with a row, or with the video that it is of.

    ``row`` is its place in the part, or among all rows that were read. Names come last, when the
    few rows that are told of are read again: checks go without long columns.
    """

    row: int
    says: str
    """Follows the name of the clip or, with ``before``, that of the video."""
    before: str = ""

    def at(self, first: int) -> RowProblem:
        """The same of a row among all, where the part's first one is ``first``."""
        return replace(self, row=self.row + first)

    def told(self, clip_id: str, source_uri: str) -> str:
        """As text."""
        where = source_uri if self.before else f"clip {clip_id} of {source_uri}"
        return f"{self.before}{where}{self.says}"


class Problems:
    """Collects problems; memory does not grow with how many there are."""

    def __init__(self) -> None:
        self.num_found = 0
        self._kept: list[str | RowProblem] = []

    def add(self, problem: str | RowProblem) -> None:
        """Count one; keep it if it is among the first."""
        self.num_found += 1
        if len(self._kept) < MAX_TOLD:
            self._kept.append(problem)

    def extend(self, problems: Iterable[str | RowProblem]) -> None:
        """Add several."""
        for problem in problems:
            self.add(problem)

    def told(self, rows: RowPlaces, storage: Storage) -> tuple[str, ...]:
        """The first ones as text; reads the parts of the rows that they name."""
        wanted = sorted({p.row for p in self._kept if isinstance(p, RowProblem)})
        names = rows.names(storage, wanted)
        return tuple(p if isinstance(p, str) else p.told(*names[p.row]) for p in self._kept)


class RowPlaces:
    """Which part each row came from."""

    def __init__(self) -> None:
        self._uris: list[str] = []
        self._firsts: list[int] = []
        self.num_rows = 0
        self.num_captions = 0

    def add_part(self, table: Table, uri: str, num_rows: int) -> int:
        """Note the next part; the place of its first row among all."""
        first = self.num_rows
        self._uris.append(uri)
        self._firsts.append(first)
        self.num_rows += num_rows
        if table is Table.CAPTIONS:  # they all come first
            self.num_captions = self.num_rows
        return first

    def table(self, row: int) -> Table:
        """The table that a row is in."""
        return Table.CAPTIONS if row < self.num_captions else Table.FAILURES

    def names(self, storage: Storage, rows: list[int]) -> dict[int, tuple[str, str]]:
        """Clip id and source URI of some rows, which are ascending."""
        found: dict[int, tuple[str, str]] = {}
        ends = [*self._firsts[1:], self.num_rows]
        for uri, first, end in zip(self._uris, self._firsts, ends):
            wanted = [row - first for row in rows if first <= row < end]
            if wanted:
                named = _read_names(storage, uri, wanted)
                found |= {first + row: name for row, name in named.items()}
        return found


def _read_names(storage: Storage, uri: str, rows: list[int]) -> dict[int, tuple[str, str]]:
    names: dict[int, tuple[str, str]] = {}
    with storage.open(uri) as stream:
        start = 0
        columns = ["clip_id", "source_uri"]
        for batch in pq.ParquetFile(stream).iter_batches(_ROWS_PER_BATCH, columns=columns):
            for row in rows:
                if start <= row < start + batch.num_rows:
                    clip_id, source_uri = (batch.column(c)[row - start].as_py() for c in columns)
                    names[row] = clip_id, source_uri
            start += batch.num_rows
    return names

"""Where things lie in a data set: names only, no access.

``<output.uri>/<config_digest>/captions/part-00000001.parquet``, ``.../failures/part-...`` and
``.../runs/<run_id>/<file>``, a run's plan in ``.../runs/<run_id>/plan/part-...``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from pipeline.dataset.schema import CAPTIONS, FAILURES
from pipeline.storage import join_uri

_PART_NAME = re.compile(r"part-(\d{8,})\.parquet")


class Table(StrEnum):
    """The two tables; a value is a folder's name."""

    CAPTIONS = "captions"
    FAILURES = "failures"

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of its rows."""
        return CAPTIONS if self is Table.CAPTIONS else FAILURES


@dataclass(frozen=True, slots=True)
class Layout:
    """The URIs of one data set: one config digest below one output folder."""

    uri: str

    @classmethod
    def of(cls, output_uri: str, config_digest: str) -> Layout:
        """The data set of a config below ``output.uri``."""
        return cls(join_uri(output_uri, config_digest))

    def table_uri(self, table: Table) -> str:
        """Folder of a table's parts."""
        return join_uri(self.uri, table.value)

    def part_uri(self, table: Table, number: int) -> str:
        """One part; eight digits at least, so that names sort like numbers."""
        return join_uri(self.table_uri(table), f"part-{number:08d}.parquet")

    def run_file_uri(self, run_id: str, name: str) -> str:
        """A file of a run's folder."""
        return join_uri(self.runs_uri, run_id, name)

    @property
    def runs_uri(self) -> str:
        """Folder of the runs' folders."""
        return join_uri(self.uri, "runs")

    def plan_part_uri(self, run_id: str, number: int) -> str:
        """One part of a run's plan, numbered from 1."""
        return self.run_file_uri(run_id, f"plan/part-{number:08d}.parquet")


def part_number(uri: str) -> int | None:
    """The number of a part, or None if the object is no part."""
    match = _PART_NAME.fullmatch(uri.rpartition("/")[2])
    return int(match[1]) if match else None

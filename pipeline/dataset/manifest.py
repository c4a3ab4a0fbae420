"""Manifests: tables that name the videos, by ``uri`` and, optionally, ``etag`` and ``size``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Storage, uri_suffix

SUFFIXES = frozenset({".parquet", ".csv", ".jsonl", ".ndjson"})
_COLUMNS = ("uri", "etag", "size")


class ManifestError(Exception):
    """The manifest itself can't be read; the text names the file, the row and the reason."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One row as it stands: the URI may be relative, and may name nothing."""

    uri: str
    etag: str | None
    size_bytes: int | None


def is_manifest(uri: str) -> bool:
    """Whether the name says that it is a manifest, not a folder or a video."""
    return uri_suffix(uri) in SUFFIXES


def read_manifest(storage: Storage, uri: str) -> Iterator[ManifestRow]:
    """Rows in the order of the file, streamed. A wrong row is a ManifestError where it is met."""
    readers = {".parquet": _parquet_rows, ".csv": _csv_rows}
    reader = readers.get(uri_suffix(uri), _json_rows)
    with storage.open(uri) as stream:
        number = 1
        try:
            for row in reader(stream):
                yield _parsed(row)
                number += 1
        except (ValueError, KeyError, TypeError, pa.ArrowException, csv.Error) as error:
            raise ManifestError(f"{uri}, row {number}: {_reason(error)}") from error


def _parquet_rows(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    table = pq.ParquetFile(stream)
    columns = [name for name in _COLUMNS if name in table.schema_arrow.names]
    for batch in table.iter_batches(columns=columns):
        yield from batch.to_pylist()


def _csv_rows(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        yield from csv.DictReader(text)


def _json_rows(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.strip():
            yield json.loads(line)


def _parsed(row: dict[str, Any]) -> ManifestRow:
    uri, etag, size = row["uri"], row.get("etag"), row.get("size")
    if not isinstance(uri, str) or not uri:
        raise ValueError(f"`uri` is {uri!r}, not a name")
    return ManifestRow(
        uri=uri,
        etag=str(etag).strip('"') if etag else None,
        size_bytes=int(size) if size not in (None, "") else None,
    )


def _reason(error: Exception) -> str:
    return "no column `uri`" if error.args == ("uri",) else str(error)

"""Which names have rows, here and in the data sets of other config digests beside this one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import cached_property, partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import list_parts
from pipeline.dataset.plan_ahead import ahead
from pipeline.dataset.plan_ids import IdSet, uri_id
from pipeline.storage import AccessDeniedError, NotFoundError, Storage, parent_uri

_LOG = logging.getLogger(__name__)
_NUM_READERS = 8  # parts read at a time: round trips, more than bytes
_DIGEST = re.compile(r"[0-9a-f]{16}")


class WrittenUris:
    """Ids (``row_uri_id``) of the names that have rows; about 20 bytes a name."""

    def __init__(self, storage: Storage, layout: Layout, prefix: str | None) -> None:
        """Read the names of this data set, only those that begin with ``prefix`` if one is given.

        Raises StorageError; a damaged part's ArrowException goes through.
        """
        self._storage = storage
        self._layout = layout
        self._prefix = prefix
        self.here = IdSet()
        for found in _read(storage, layout, prefix):
            self.here.add(found)

    @cached_property
    def elsewhere(self) -> IdSet:
        """Those of the other digests; read when first asked for, so not for nothing to do.

        They only explain a plan: one that can't be read is left out, with a warning.
        """
        ids = IdSet()
        for sibling in sibling_layouts(self._storage, self._layout):
            try:
                for found in _read(self._storage, sibling, self._prefix):
                    ids.add(found)
            except (NotFoundError, AccessDeniedError, pa.ArrowException) as error:
                _LOG.warning("the plan does not regard %s: %s", sibling.uri, error)
        return ids


def sibling_layouts(storage: Storage, layout: Layout) -> list[Layout]:
    """The data sets of other digests below the same output. Raises StorageError."""
    try:
        folders = list(storage.folders(parent_uri(layout.uri)))
    except NotFoundError:
        return []  # the first run
    others = [uri for uri in folders if uri.rpartition("/")[2] != layout.uri.rpartition("/")[2]]
    return [Layout(uri) for uri in others if _DIGEST.fullmatch(uri.rpartition("/")[2])]


def row_uri(uri: str) -> str:
    """A name as rows spell it: bytes that are no UTF-8 (of a local file) as ``\\xff``."""
    return uri.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def row_uri_id(uri: str) -> bytes:
    """The id of a name as rows spell it."""
    return uri_id(row_uri(uri))


def _read(storage: Storage, layout: Layout, prefix: str | None) -> Iterator[bytes]:
    """Ids of the names in both tables, with repetitions."""
    parts = list_parts(storage, layout)
    uris = (layout.part_uri(table, number) for table in Table for number in parts.of(table))
    for ids in ahead(partial(_part_ids, storage, prefix), uris, _NUM_READERS):
        yield from ids


def _part_ids(storage: Storage, prefix: str | None, part_uri: str) -> list[bytes]:
    with storage.open(part_uri) as stream:
        names = pq.read_table(stream, columns=["source_uri"]).column("source_uri").unique()
    if prefix is not None:
        names = names.filter(pc.starts_with(names, prefix))
    return [uri_id(name) for name in names.to_pylist()]

"""The only committer: rows become numbered parts, each exactly once, on bare S3.

The protocol needs one thing of the storage: a put that fails if the name is taken.

- A data set is a sequence of commits 1, 2, 3, ... The existence of ``captions/part-N`` *is* commit
  N: its rows are in the data set from that moment, and nothing is ever rewritten or removed.
- Commit N is put-if-absent of ``captions/part-N``, which exists in every commit, with no rows if
  need be, because it is the fence that only one writer can put; then, if there are failures,
  put-if-absent of ``failures/part-N``.
- A starting writer lists both tables and takes the greatest number, L. It *seals* commit L by
  put-if-absent of an empty ``failures/part-L``. An older writer that is paused between its two puts
  of L then finds the name taken and stops; if it had put its failures before, the seal finds the
  name taken, which is as good: commit L can't change any more. The starting writer lists again,
  and repeats if a newer commit has appeared. Then it reads what is done, and continues at L + 1.
- A writer that finds a name taken stops with SecondWriterError, unless the object holds the very
  bytes that it sent: then its own put had succeeded and only the answer was lost. Parts carry a
  random token of their writer, so two writers never send the same bytes.

So of two writers at most one can put any fence; the other stops before it has added a row to that
commit. A writer knows all rows of the commits before its own next fence, so no clip gets two
captions, and a clip that failed gets another row only of a higher attempt (standing.py).
A crash between the two puts loses only failures, which the next run makes again.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipeline.config import OutputConfig
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import PartList, encode_part, list_parts, part_writer
from pipeline.dataset.standing import read_standing
from pipeline.failure_kinds import FailureKind
from pipeline.storage import AlreadyExistsError, Storage, StorageError


class CommitError(Exception):
    """The data set can't be written by this job."""


class SecondWriterError(CommitError):
    """Another job writes, or has taken over, the same data set."""


class DatasetNotEmptyError(CommitError):
    """There are rows, and the job was told not to resume."""


class UnsafeStorageError(CommitError):
    """The storage ignores the condition of a conditional put, so nothing would be exactly once."""


_FATAL = (CommitError, StorageError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class CommitCounts:
    """What a committer has done so far, in rows."""

    captions: int = 0
    failures: int = 0
    duplicates: int = 0
    commits: int = 0


class Committer:
    """Buffers rows and commits them; see the module for the protocol.

    Safe to call from several threads. A part is committed when it has ``rows_per_part`` rows, or
    ``seconds_per_part`` after its first row (by a timer, so also if no further row arrives). After
    an error it is dead: every later call raises that error, and a new run resumes from what is
    stored.
    """

    def __init__(
        self,
        storage: Storage,
        layout: Layout,
        output: OutputConfig,
        run_id: str,
        resume: bool = True,
        retry: frozenset[FailureKind] = frozenset(),
    ) -> None:
        """Take the data set over: prove conditional puts, seal the last commit, read what is done.

        Clips with a standing failure of a kind to ``retry`` count as not done: their next row has
        to come with a higher attempt (``standing.last_attempts``).
        Raises DatasetNotEmptyError (rows exist and not ``resume``), UnsafeStorageError, or a
        StorageError.
        """
        self._storage = storage
        self._layout = layout
        self._output = output
        self._writer = f"{run_id}/{uuid.uuid4().hex}"
        self._lock = threading.RLock()
        self._rows: dict[Table, list[Mapping[str, Any]]] = {table: [] for table in Table}
        self._timer: threading.Timer | None = None
        self._error: Exception | None = None
        self._counts = CommitCounts()

        _prove_conditional_put(storage, layout, run_id, self._writer)
        parts = _seal(storage, layout, self._writer)
        self.standing = read_standing(storage, layout, parts, retry)
        self.done = self.standing.done
        self._next = parts.last + 1
        if (self.done or self.standing.last_attempts) and not resume:
            raise DatasetNotEmptyError(
                f"{layout.uri} has rows already ({parts.last} commits): "
                "resume it, or choose another output"
            )

    @property
    def counts(self) -> CommitCounts:
        """Rows committed (not those in the buffer), duplicates dropped, commits made."""
        return self._counts

    def add_caption(self, row: Mapping[str, Any]) -> bool:
        """Take a caption row; False if its clip has a row already (dropped and counted)."""
        return self._add(Table.CAPTIONS, row)

    def add_failure(self, row: Mapping[str, Any]) -> bool:
        """Take a failure row; False if its clip has a row already (dropped and counted)."""
        return self._add(Table.FAILURES, row)

    def flush(self) -> None:
        """Commit what is buffered; no rows, no commit."""
        with self._lock:
            self._raise_if_dead()
            self._commit()

    def close(self) -> None:
        """Commit the rest. Without it (a crash) the next run makes the buffered rows again."""
        self.flush()

    def __enter__(self) -> Committer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit the rest also if the run failed: rows that are made are good."""
        if kind is None or self._error is None:
            self.close()

    def _add(self, table: Table, row: Mapping[str, Any]) -> bool:
        with self._lock:
            self._raise_if_dead()
            if not self.done.add(row["video_id"], row["clip_id"], row["num_clips"]):
                self._counts = replace(self._counts, duplicates=self._counts.duplicates + 1)
                return False
            self._rows[table].append(row)
            num_rows = sum(map(len, self._rows.values()))
            if num_rows >= self._output.rows_per_part:
                self._commit()
            elif num_rows == 1:
                self._timer = threading.Timer(self._output.seconds_per_part, self._commit_late)
                self._timer.daemon = True
                self._timer.start()
            return True

    def _commit_late(self) -> None:
        """The timer's commit: an error is kept for the next call, as nobody hears this thread."""
        with self._lock, suppress(*_FATAL):
            if self._error is None:
                self._commit()

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        captions, failures = self._rows[Table.CAPTIONS], self._rows[Table.FAILURES]
        if not captions and not failures:
            return
        try:
            # both are encoded first: a row that does not fit the schema must not cost a fence
            fence = encode_part(Table.CAPTIONS, captions, self._writer)
            rest = encode_part(Table.FAILURES, failures, self._writer)
            self._put_part(Table.CAPTIONS, fence)
            if failures:
                self._put_part(Table.FAILURES, rest)
        except _FATAL as error:
            self._error = error
            raise
        self._counts = replace(
            self._counts,
            captions=self._counts.captions + len(captions),
            failures=self._counts.failures + len(failures),
            commits=self._counts.commits + 1,
        )
        self._rows = {table: [] for table in Table}
        self._next += 1

    def _put_part(self, table: Table, data: bytes) -> None:
        uri = self._layout.part_uri(table, self._next)
        try:
            self._storage.put_if_absent(uri, data)
        except AlreadyExistsError as error:
            stored = self._storage.read_bytes(uri)
            if stored != data:
                raise SecondWriterError(
                    f"another job writes this data set: {uri} was put by {part_writer(stored)}, "
                    f"this is {self._writer}; stop one of them and run again to resume"
                ) from error

    def _raise_if_dead(self) -> None:
        if self._error is not None:
            raise self._error


def _prove_conditional_put(storage: Storage, layout: Layout, run_id: str, writer: str) -> None:
    """Put one small object twice. It also records, in the run's folder, that a writer started."""
    uri = layout.run_file_uri(run_id, f"writer-{writer.rpartition('/')[2]}.json")
    data = json.dumps({"run_id": run_id, "writer": writer}).encode()
    try:
        storage.put_if_absent(uri, data)
        storage.put_if_absent(uri, data)
    except AlreadyExistsError:
        return
    raise UnsafeStorageError(
        f"the storage of {layout.uri} ignores If-None-Match, so two jobs could overwrite each other"
    )


def _seal(storage: Storage, layout: Layout, writer: str) -> PartList:
    """Close the last commit, so that it can't change any more; the parts as they are then."""
    parts = list_parts(storage, layout)
    while parts.last and parts.last not in parts.failures:
        with suppress(AlreadyExistsError):  # its writer was faster: then it is closed as well
            empty = encode_part(Table.FAILURES, (), writer)
            storage.put_if_absent(layout.part_uri(Table.FAILURES, parts.last), empty)
        parts = list_parts(storage, layout)
    return parts

"""128-bit ids as numbers, and rows kept aside by their id, so that memory stays bounded."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Records = npt.NDArray[Any]
"""Rows of a structured type whose first two fields are ``high`` and ``low`` of an id."""

ID_FIELDS = [("high", np.uint64), ("low", np.uint64)]

_HEX_DIGITS = 32
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)

_NUM_BUCKETS_LOG2 = (
    6  # 64 open files for each kind of rows, of the 1024 that a process has at least
)
_BYTES_IN_MEMORY = 2 << 20  # of each bucket; what comes after goes to a temporary file


def as_numbers(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Ids as [N, 2] big-endian halves: 32 hex digits by value, any other text by its hash."""
    num_ids = len(ids)
    if not num_ids:
        return np.empty((0, 2), np.uint64)
    _, offsets_buffer, text_buffer = ids.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, num_ids + 1, ids.offset * 4)
    if text_buffer is None or not (np.diff(offsets) == _HEX_DIGITS).all():
        return _hashed(ids)
    text = np.frombuffer(text_buffer, np.uint8, num_ids * _HEX_DIGITS, int(offsets[0]))
    digits = _DIGITS[text]
    if (digits == _NO_DIGIT).any():
        return _hashed(ids)
    numbers: npt.NDArray[np.uint64] = (digits[0::2] << 4 | digits[1::2]).view(">u8").astype("u8")
    return numbers.reshape(num_ids, 2)


def _hashed(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """One by one, as an id of another form is rare: what verify() is there to find, or a test's."""
    halves = np.empty((len(ids), 2), np.uint64)
    for index, text in enumerate(ids.to_pylist()):
        try:
            number = int(text, 16) if len(text) == _HEX_DIGITS and text == text.lower() else None
        except ValueError:
            number = None
        if number is None or f"{number:032x}" != text:
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            number = int.from_bytes(digest, "big")
        halves[index] = number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF
    return halves


class Buckets:
    """Rows by the first bits of their id: equal ids meet in one bucket, and one fits in memory.

    A bucket has a 64th of the rows. Small data sets stay in memory, large ones go to temporary
    files, which vanish with the process.
    """

    def __init__(self, fields: list[tuple[str, Any]]) -> None:
        self.type = np.dtype(ID_FIELDS + fields)
        self._files = [
            tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115 - closed by __exit__
            for _ in range(1 << _NUM_BUCKETS_LOG2)
        ]

    def add(self, ids: npt.NDArray[np.uint64], **columns: Any) -> None:
        """Keep rows: [N, 2] ids, and an array (or one value for all) for each further field."""
        rows = np.empty(len(ids), self.type)
        rows["high"], rows["low"] = ids[:, 0], ids[:, 1]
        for name, values in columns.items():
            rows[name] = values
        bucket = (rows["high"] >> np.uint64(64 - _NUM_BUCKETS_LOG2)).astype(np.uint8)
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(np.bincount(bucket, minlength=len(self._files)))
        rows = rows[order]
        for file, start, end in zip(self._files, np.concatenate(([0], ends)), ends):
            if end > start:
                file.write(rows[start:end].tobytes())

    def __iter__(self) -> Iterator[Records]:
        """Each bucket's rows, in the order in which they were added."""
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), self.type)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()


def same_as_before(rows: Records) -> npt.NDArray[np.bool_]:
    """Of sorted rows: whether the row before has the same id."""
    same = np.zeros(len(rows), np.bool_)
    same[1:] = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
    return same

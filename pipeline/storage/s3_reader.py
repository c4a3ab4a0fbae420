"""One version of one object as a seekable raw stream; a BufferedReader reads ahead for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from pipeline.records import VideoObject

ReadRange = Callable[[VideoObject, int, int], bytes]


class RangeReader(io.RawIOBase):
    """Seeks by arithmetic, reads by range requests; errors are those of ``read_range``."""

    def __init__(self, read_range: ReadRange, version: VideoObject) -> None:
        super().__init__()
        self._read_range = read_range
        self._version = version
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Ask nobody; a position behind the end is allowed, as in a file."""
        origin = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._version.size_bytes,
        }
        if whence not in origin:
            raise ValueError(f"whence {whence} is not 0, 1 or 2")
        position = origin[whence] + offset
        if position < 0:
            raise ValueError(f"seek to {position}, before the start")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end of the object."""
        length = min(len(buffer), self._version.size_bytes - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._read_range(self._version, self._position, length)
        self._position += length
        return length

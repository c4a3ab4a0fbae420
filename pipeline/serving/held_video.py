"""A video that is held open for the decode child: a temporary file without a name, or a local one.

The child opens it through this process's descriptor (Linux), so no path can be swapped in between
and nothing is left on the disk, however this process ends.
"""

from __future__ import annotations

import binascii
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO, Self

from pipeline.config import StorageConfig
from pipeline.records import VideoObject
from pipeline.serving.video_errors import VideoFetchError, invalid_url, not_allowed, too_large
from pipeline.serving.video_url import DataUrl, FileUrl
from pipeline.storage import Opener
from pipeline.storage.local import file_etag

_CHUNK_BYTES = 1 << 20
_DATA_CHUNK_CHARS = 4 << 20  # of base64; a multiple of 4


class HeldVideo:
    """An open file of at most ``max_bytes`` bytes and the digest of what it holds."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._digest = hashlib.blake2b(digest_size=16)

    @classmethod
    def temporary(cls, max_bytes: int) -> Self:
        """Empty, without a name, gone when it is closed."""
        return cls(tempfile.TemporaryFile(buffering=0), max_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; a temporary file is gone."""
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append. Raises VideoFetchError: too many bytes, or no room."""
        self._count(data)
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            message = "the endpoint has no room for the video now: try again later"
            raise VideoFetchError(502, "video_fetch_failed", message) from error

    def read_through(self) -> None:
        """Take the digest of a file that is there already. Raises VideoFetchError."""
        while data := self._file.read(_CHUNK_BYTES):
            self._count(data)

    def video(self, uri: str) -> VideoObject:
        """The video by its content: equal bytes have equal etags, wherever they came from."""
        return VideoObject(uri, self._digest.hexdigest(), self._num_bytes)

    def opener(self, storage: StorageConfig) -> Opener:
        """Opens exactly this file, in this process or its child, while it is held."""
        descriptor = self._file.fileno()
        etag = file_etag(os.fstat(descriptor))
        return Opener(f"/proc/{os.getpid()}/fd/{descriptor}", etag, storage)

    def _count(self, data: bytes) -> None:
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        self._digest.update(data)


def hold_data(url: DataUrl, max_bytes: int) -> HeldVideo:
    """Decode a data URL into a temporary file. VideoRefusedError: not base64; VideoFetchError."""
    payload = url.payload
    if len(payload) // 4 * 3 - payload[-2:].count("=") > max_bytes:
        raise too_large(max_bytes)
    held = HeldVideo.temporary(max_bytes)
    with _kept(held):
        try:
            for start in range(0, len(payload), _DATA_CHUNK_CHARS):
                chunk = payload[start : start + _DATA_CHUNK_CHARS]
                if start + len(chunk) < len(payload) and chunk.endswith("="):
                    raise ValueError("padding in the middle")
                held.write(binascii.a2b_base64(chunk, strict_mode=True))
        except ValueError as error:  # binascii.Error is one, and so is a letter beyond ASCII
            raise invalid_url("its data is not base64 (RFC 4648, with padding)") from error
    return held


def hold_file(url: FileUrl, folder: str | None, max_bytes: int) -> HeldVideo:
    """Open a regular file below ``folder``, links resolved, and read it through.

    VideoRefusedError: not below the folder; VideoFetchError: no such file, or too large.
    """
    if folder is None:
        raise not_allowed(
            "file:// URLs are not allowed here (serving.video_access.allowed_local_media_path)"
        )
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(url.path, strict=True)
        _check_below(path, root)
        # not to wait for the other end of a pipe
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _check_below(os.path.realpath(url.path), root)  # tell nothing of what is elsewhere
        message = "there is no readable file under this URL"
        raise VideoFetchError(400, "video_not_found", message) from error
    held = HeldVideo(os.fdopen(descriptor, "rb", buffering=0), max_bytes)
    with _kept(held):
        # the kernel's word on what was opened: a folder on the way may have become a link since
        _check_below(os.readlink(f"/proc/self/fd/{descriptor}"), root)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise not_allowed("only regular files are read")
        held.read_through()
    return held


@contextmanager
def _kept(held: HeldVideo) -> Iterator[None]:
    """Close it if the block fails."""
    try:
        yield
    except BaseException:
        held.close()
        raise


def _check_below(path: str, root: str) -> None:
    if not path.startswith(root.rstrip("/") + "/"):
        raise not_allowed(
            "the file is not below the folder that is allowed here "
            "(serving.video_access.allowed_local_media_path)"
        )

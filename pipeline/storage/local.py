"""Local folders: the same promises as S3's, made with link, rename and fsync."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from pipeline.records import VideoObject
from pipeline.storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
)
from pipeline.storage.uris import local_path


class LocalStorage:
    """Files under absolute paths; names with a leading dot (unfinished writes) are not listed."""

    def list(
        self, uri: str, after: str = "", up_to: str = "", page_size: int = 1000
    ) -> Iterator[VideoObject]:
        """Files below a folder, in S3's order. Links to files count, links to folders don't."""
        first, last = os.fsencode(after), os.fsencode(up_to)
        for found in _walk(local_path(uri)):
            name = os.fsencode(found.uri)
            if last and name > last:
                return
            if name > first:
                yield found

    def folders(self, uri: str, max_requests: int | None = None) -> Iterator[str]:
        """Folders in a folder."""
        path = local_path(uri)
        with _translated(path):
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from sorted(names, key=os.fsencode)

    def stat(self, uri: str) -> VideoObject:
        """Size and etag of one file."""
        path = local_path(uri)
        with _translated(path):
            return _video_object(path, os.stat(path))

    def open(self, uri: str, etag: str | None = None) -> BinaryIO:
        """A buffered file. The etag is checked on the open file, so not raced by a rename."""
        path = local_path(uri)
        with _translated(path):
            stream = open(path, "rb")  # noqa: SIM115 - the caller closes it
        if etag is not None and file_etag(os.fstat(stream.fileno())) != etag:
            stream.close()
            raise ObjectChangedError(path, "the file changed since it was listed")
        return stream

    def read_bytes(self, uri: str) -> bytes:
        """The whole file."""
        with self.open(uri) as stream:
            return stream.read()

    def put(self, uri: str, data: bytes) -> None:
        """Write aside, fsync, rename."""
        path = local_path(uri)
        with _translated(path), _written_aside(path, data) as aside:
            os.replace(aside, path)

    def put_if_absent(self, uri: str, data: bytes) -> None:
        """Write aside, fsync, link: link(2) fails if the name is taken, whoever took it."""
        path = local_path(uri)
        with _translated(path), _written_aside(path, data) as aside:
            os.link(aside, path)

    def put_if_match(self, uri: str, data: bytes, etag: str) -> None:
        """Write aside, fsync, then compare and rename under a lock that all who do this take."""
        path = local_path(uri)
        with _translated(path), _written_aside(path, data) as aside, _locked(path):
            if file_etag(os.stat(path)) != etag:
                raise ObjectChangedError(path, "the file changed since it was read")
            os.replace(aside, path)


def file_etag(status: os.stat_result) -> str:
    """Version of a file: its size, modification time (ns) and inode.

    Any write changes the time, and a file that is moved over another brings another inode, so a
    change shows without reading a corpus to hash it. Copying a corpus elsewhere makes new versions.
    """
    return f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"


def _video_object(path: str, status: os.stat_result) -> VideoObject:
    return VideoObject(uri=path, etag=file_etag(status), size_bytes=status.st_size)


def _walk(folder: str) -> Iterator[VideoObject]:
    with _translated(folder):
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]

    def key(entry: os.DirEntry[str]) -> bytes:
        # with its slash a folder sorts where S3 has the keys that begin with it
        return os.fsencode(entry.name + "/" * entry.is_dir(follow_symlinks=False))

    for entry in sorted(entries, key=key):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif entry.is_file():
            with suppress(FileNotFoundError):  # removed since the folder was read
                yield _video_object(entry.path, entry.stat())


@contextmanager
def _written_aside(path: str, data: bytes) -> Iterator[str]:
    """A durable hidden file beside ``path`` for the block to publish; then the folder is synced."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f".{name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield aside
    finally:
        with suppress(FileNotFoundError):
            os.unlink(aside)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Alone among processes; the hidden lock file stays, as removing it would let two in."""
    folder, name = os.path.split(path)
    with open(os.path.join(folder, f".{name[:100]}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, also in a process that is killed
        yield


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """OSError -> StorageError."""
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExistsError(path, "the file exists") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(path, "no such file or folder") from error
    except PermissionError as error:
        raise AccessDeniedError(path, f"not permitted ({error.strerror})") from error
    except OSError as error:
        raise StorageError(path, f"{error.strerror} (errno {error.errno})") from error

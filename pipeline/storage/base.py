"""The storage protocol, and which implementation serves a URI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, Protocol

from pipeline.config import StorageConfig
from pipeline.records import VideoObject
from pipeline.storage.uris import is_s3


class Storage(Protocol):
    """Objects under URIs. Every method raises a ``StorageError`` that names the URI."""

    def list(
        self, uri: str, after: str = "", up_to: str = "", page_size: int = 1000
    ) -> Iterator[VideoObject]:
        """Objects below a folder, recursively, in the order of their keys' bytes, streamed.

        ``uri`` means the folder whether or not it ends in a slash. Where ``after`` and ``up_to``
        are given (URIs that need not exist), only objects with after < URI <= up_to.
        ``page_size`` is asked for at a time, at most 1000. Empty S3 prefix: nothing; missing bucket
        or local folder: NotFoundError.
        """
        ...

    def folders(self, uri: str, max_requests: int | None = None) -> Iterator[str]:
        """The folders directly below a folder, without their last slash, in order, streamed.

        S3 tells objects and folders together, a thousand a request: ``max_requests`` bounds what
        a folder of ten million objects costs. Errors are those of ``list``.
        """
        ...

    def stat(self, uri: str) -> VideoObject:
        """Size and etag of one object. NotFoundError if there is none."""
        ...

    def open(self, uri: str, etag: str | None = None) -> BinaryIO:
        """A seekable reader; with an ``etag``, of exactly that version (ObjectChangedError)."""
        ...

    def read_bytes(self, uri: str) -> bytes:
        """The whole object."""
        ...

    def put(self, uri: str, data: bytes) -> None:
        """Create or replace atomically: a reader sees the old object or the new one."""
        ...

    def put_if_absent(self, uri: str, data: bytes) -> None:
        """Create atomically and durably, or raise AlreadyExistsError and change nothing.

        A request whose answer was lost is sent again, so AlreadyExistsError may be about one's
        own object: the caller compares what is stored.
        """
        ...

    def put_if_match(self, uri: str, data: bytes, etag: str) -> None:
        """Replace exactly that version atomically, or raise ObjectChangedError and change nothing.

        NotFoundError if there is none. As with ``put_if_absent`` the error may be about one's own
        object, put by a request whose answer was lost.
        """
        ...


def storage_for(uri: str, config: StorageConfig) -> Storage:
    """The storage that serves this URI; clients are shared within a process (they are safe to)."""
    if is_s3(uri):
        return _s3_storage(config, os.getpid())
    return _local_storage()


@lru_cache(maxsize=8)
def _s3_storage(config: StorageConfig, pid: int) -> Storage:
    """One client per process: ``pid`` is in the key as a forked child can't use its parent's."""
    from pipeline.storage.s3 import S3Storage  # boto3 takes a while to import: only who needs it

    return S3Storage(config)


@lru_cache(maxsize=1)
def _local_storage() -> Storage:
    from pipeline.storage.local import LocalStorage

    return LocalStorage()


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens one version of one object, here or in a child process: plain data, no connection.

    An empty ``etag`` stands for any version (a manifest row whose object could not be found).
    """

    uri: str
    etag: str
    config: StorageConfig = field(repr=False)

    def __call__(self) -> BinaryIO:
        """Open it; errors are those of ``Storage.open``."""
        return storage_for(self.uri, self.config).open(self.uri, self.etag or None)

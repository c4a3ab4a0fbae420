"""The body of an answer to GET: all of it, of the right version, in bounded time, or an error."""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import suppress
from typing import Any

from pipeline.records import VideoObject
from pipeline.storage.errors import ObjectChangedError, StorageError, TransientStorageError

# A body may take this long: a server that sends a byte now and then never meets a read timeout.
FIRST_BYTES_S = 20.0
SLOWEST_BYTES_PER_S = 256 << 10  # a read-ahead of 2 MiB: 28 s in all

_MD5 = re.compile(r"[0-9a-f]{32}")


def etag_of(answer: dict[str, Any]) -> str:
    """The version that an answer is of; empty if the server doesn't say."""
    return str(answer.get("ETag", "")).strip('"')


def read_range_body(answer: dict[str, Any], version: VideoObject, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` of a version. The body is read only if it is to be that.

    Raises ObjectChangedError if the server gave another version in spite of If-Match, StorageError
    if it gave another range, TransientStorageError if less arrived.
    """
    uri, size_bytes = version.uri, answer.get("ContentLength")
    is_part = answer.get("ContentRange")
    if etag_of(answer) != version.etag:
        answer["Body"].close()
        raise ObjectChangedError(uri, "the object changed since listed (another ETag came)")
    if (start or is_part) and not str(is_part).startswith(f"bytes {start}-"):
        answer["Body"].close()
        raise StorageError(uri, "the server does not give the range that it is asked for")
    if size_bytes not in (None, length):
        answer["Body"].close()
        raise TransientStorageError(uri, f"{size_bytes} of {length} bytes were to arrive")
    body = read_body(answer)
    if len(body) != length:
        raise TransientStorageError(uri, f"{len(body)} of {length} bytes arrived")
    return body


def read_body(answer: dict[str, Any]) -> bytes:
    """The bytes, as many as the server announced, in bounded time; botocore's errors."""
    body, num_bytes = answer["Body"], answer.get("ContentLength", 0)
    limit_s = FIRST_BYTES_S + num_bytes / SLOWEST_BYTES_PER_S
    with body as raw:

        def give_up() -> None:
            # unless the body is complete and its connection in use for another
            with suppress(RuntimeError, ValueError, OSError):
                raw.shutdown()  # the reading thread then finds the body short

        timer = threading.Timer(limit_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            data: bytes = body.read()
        finally:
            timer.cancel()
    return data


def md5_of(answer: dict[str, Any]) -> str | None:
    """The MD5 (hex) of the object, where its ETag is one: not of uploads in parts, nor if AWS holds
    the key that it is encrypted with.
    """
    encryption = str(answer.get("ServerSideEncryption", ""))
    if encryption.startswith("aws:kms") or answer.get("SSECustomerAlgorithm"):
        return None
    etag = etag_of(answer)
    return etag if _MD5.fullmatch(etag) else None


def md5(data: bytes) -> str:
    """Hex digits, as an ETag has them."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()

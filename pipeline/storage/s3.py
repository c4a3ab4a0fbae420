"""S3 over boto3: range reads of one version, conditional puts, one place that retries."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import boto3
import botocore.config
import botocore.exceptions as botocore_errors

from pipeline.config import StorageConfig
from pipeline.records import VideoObject
from pipeline.storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CredentialsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage.retry import retrying
from pipeline.storage.uris import S3_SCHEME, split_s3

READ_AHEAD_BYTES = 2 << 20  # one request: a group of pictures, or the index of an hour
LIST_PAGE_KEYS = 1000  # the most that S3 gives
# All attempts at a server that stalls end before video.limits.timeout_s does: it is the server's
# fault (TransientStorageError, ends the run), not the video's (a timeout, a failure row).
CONNECT_TIMEOUT_S = 20
READ_TIMEOUT_S = 20
MAX_CONNECTIONS = 64

_CREDENTIAL_CODES = frozenset(
    {
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",  # this machine's clock makes every signature invalid
    }
)
_UNEXPLAINED_CODES = frozenset({"400", "403"})  # an answer to HEAD has no body to say more
_TRANSIENT_CODES = frozenset(
    {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
)
# 409: a put or delete of the same key was under way; S3 asks for another try, which then meets 412
_TRANSIENT_STATUS = frozenset({409, 429, 500, 502, 503, 504})
_CONNECTION_ERRORS = (
    botocore_errors.ConnectionError,  # name resolution, TLS
    botocore_errors.HTTPClientError,  # connect and read timeouts, resets, proxies
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
)


class S3Storage:
    """Objects in S3 or a server that speaks it; credentials come from boto3's default chain."""

    def __init__(self, config: StorageConfig) -> None:
        self._max_attempts = config.max_attempts
        # a session of its own: boto3's default one is not safe to share between threads
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            config=botocore.config.Config(
                s3={"addressing_style": config.addressing_style},
                retries={
                    "total_max_attempts": 1
                },  # ours also cover the body, so botocore's are off
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=MAX_CONNECTIONS,
            ),
        )

    def list(self, uri: str) -> Iterator[VideoObject]:
        """Objects below a prefix that ends at a slash, page by page; folder markers are skipped."""
        bucket, prefix = split_s3(uri)
        request: dict[str, Any] = {
            "Bucket": bucket,
            "Prefix": f"{prefix.rstrip('/')}/" if prefix else "",
            "MaxKeys": LIST_PAGE_KEYS,
        }
        while True:
            page = self._call(uri, "list_objects_v2", request)
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    yield VideoObject(
                        uri=f"{S3_SCHEME}{bucket}/{entry['Key']}",
                        etag=entry["ETag"].strip('"'),
                        size_bytes=entry["Size"],
                    )
            if not page["IsTruncated"]:
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, uri: str) -> VideoObject:
        """Size and etag of one object."""
        return self._stat(uri, {})

    def open(self, uri: str, etag: str | None = None) -> BinaryIO:
        """A buffered range reader of one version: every request says If-Match.

        Without an etag it is pinned to the version found now, so that an object replaced halfway
        is an error and never a mixture.
        """
        found = self._stat(uri, {"IfMatch": f'"{etag}"'} if etag is not None else {})
        return io.BufferedReader(_RangeReader(self, found), READ_AHEAD_BYTES)

    def read_bytes(self, uri: str) -> bytes:
        """The whole object in one request."""
        return self._get(uri, {})

    def read_range(self, version: VideoObject, start: int, length: int) -> bytes:
        """``length`` > 0 bytes from ``start``, of that version; all of them, or an error."""
        return self._get(
            version.uri,
            {"IfMatch": f'"{version.etag}"', "Range": f"bytes={start}-{start + length - 1}"},
            length,
        )

    def put(self, uri: str, data: bytes) -> None:
        """Create or replace."""
        self._call(uri, "put_object", {**_address(uri), "Body": data})

    def put_if_absent(self, uri: str, data: bytes) -> None:
        """PUT with ``If-None-Match: *``; 412 is AlreadyExistsError."""
        request = {**_address(uri), "Body": data, "IfNoneMatch": "*"}
        self._call(uri, "put_object", request, precondition=AlreadyExistsError)

    def _stat(self, uri: str, conditions: dict[str, Any]) -> VideoObject:
        request = {**_address(uri), **conditions}

        def head() -> dict[str, Any]:
            with _translated(uri, ObjectChangedError):
                try:
                    answer: dict[str, Any] = self._client.head_object(**request)
                except botocore_errors.ClientError as error:
                    if _code(error) in _UNEXPLAINED_CODES:
                        # whether credentials or permissions are at fault says the answer to a GET
                        self._client.get_object(**request, Range="bytes=0-0")["Body"].close()
                    raise
            return answer

        answer = retrying(head, self._max_attempts)
        return VideoObject(uri, answer["ETag"].strip('"'), answer["ContentLength"])

    def _get(self, uri: str, conditions: dict[str, Any], length: int | None = None) -> bytes:
        request = {**_address(uri), **conditions}

        def get() -> bytes:
            with _translated(uri, ObjectChangedError):
                body: bytes = self._client.get_object(**request)["Body"].read()
            if length is not None and len(body) != length:
                raise TransientStorageError(uri, f"{len(body)} of {length} bytes arrived")
            return body

        return retrying(get, self._max_attempts)

    def _call(
        self,
        uri: str,
        method: str,
        request: dict[str, Any],
        precondition: type[StorageError] = ObjectChangedError,
    ) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            with _translated(uri, precondition):
                answer: dict[str, Any] = getattr(self._client, method)(**request)
            return answer

        return retrying(call, self._max_attempts)


class _RangeReader(io.RawIOBase):
    """One version of one object as a seekable raw stream; BufferedReader reads ahead for it."""

    def __init__(self, storage: S3Storage, version: VideoObject) -> None:
        super().__init__()
        self._storage = storage
        self._version = version
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
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
        length = min(len(buffer), self._version.size_bytes - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._storage.read_range(self._version, self._position, length)
        self._position += length
        return length


def _address(uri: str) -> dict[str, Any]:
    bucket, key = split_s3(uri)
    return {"Bucket": bucket, "Key": key}


@contextmanager
def _translated(uri: str, precondition: type[StorageError]) -> Iterator[None]:
    """botocore's errors -> ours; only codes are quoted, as messages may hold addresses and ids."""
    try:
        yield
    except botocore_errors.ClientError as error:
        raise _from_answer(uri, error, precondition) from error
    except _CONNECTION_ERRORS as error:
        raise TransientStorageError(uri, f"no complete answer ({type(error).__name__})") from error
    except (
        botocore_errors.NoCredentialsError,
        botocore_errors.PartialCredentialsError,
        botocore_errors.CredentialRetrievalError,
    ) as error:
        raise CredentialsError(uri, f"no credentials ({type(error).__name__})") from error
    except botocore_errors.BotoCoreError as error:
        raise StorageError(uri, f"request not possible ({type(error).__name__})") from error


def _from_answer(
    uri: str, error: botocore_errors.ClientError, precondition: type[StorageError]
) -> StorageError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = _code(error)
    said = f"HTTP {status} {code}".strip()
    if status == 412:
        meaning = "exists already" if precondition is AlreadyExistsError else "changed since listed"
        return precondition(uri, f"the object {meaning} ({said})")
    if status == 404:
        return NotFoundError(uri, f"no such object or bucket ({said})")
    if status == 401 or code in _CREDENTIAL_CODES:
        return CredentialsError(uri, f"the server does not accept the credentials ({said})")
    if status == 403:
        return AccessDeniedError(uri, f"access denied ({said})")
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return TransientStorageError(uri, f"the server can't now ({said})")
    return StorageError(uri, f"the server refused ({said})")


def _code(error: botocore_errors.ClientError) -> str:
    """S3's name of the error; the HTTP status in digits if the answer has no body."""
    code: str = error.response.get("Error", {}).get("Code", "")
    return code

"""S3 over boto3: range reads of one version, conditional puts, one place that retries."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, TypeVar

import boto3
import botocore.config
import botocore.exceptions as botocore_errors
import botocore.session

from pipeline.config import StorageConfig
from pipeline.records import VideoObject
from pipeline.storage.errors import (
    AlreadyExistsError,
    ObjectChangedError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage.retry import Patience, budget_of, retrying
from pipeline.storage.s3_body import etag_of, md5, md5_of, read_body, read_range_body
from pipeline.storage.s3_errors import error_code, translated
from pipeline.storage.s3_reader import RangeReader
from pipeline.storage.s3_upload import address, prove_conditional_parts, put_in_parts
from pipeline.storage.uris import S3_SCHEME, split_s3

READ_AHEAD_BYTES = 2 << 20  # one request: a group of pictures, or the index of an hour
LIST_PAGE_KEYS = 1000  # the most that S3 gives
CONNECT_TIMEOUT_S = 10
MAX_CONNECTIONS = 64
IN_PARTS_FROM_BYTES = 64 << 20  # larger objects are uploaded in parts

_UNEXPLAINED_CODES = frozenset({"400", "403"})  # an answer to HEAD has no body to say more
_NEEDED = {  # what an answer can't lack, unless its body was lost on the way
    "list_objects_v2": frozenset({"IsTruncated"}),
    "create_multipart_upload": frozenset({"UploadId"}),
    "upload_part": frozenset({"ETag"}),
    "complete_multipart_upload": frozenset({"ETag"}),
}

T = TypeVar("T")


class S3Storage:
    """Objects in S3 or a server that speaks it; credentials come from boto3's default chain."""

    def __init__(self, config: StorageConfig) -> None:
        self._max_attempts = config.max_attempts
        self._budget = budget_of(config.endpoint_url)
        self._has_proved_parts = False
        # a session of its own: boto3's default one is not safe to share between threads
        core = botocore.session.get_session()
        # Nobody asks when an object was changed, and a listing is read four times faster without.
        # (botocore takes times of credentials as text or parsed; aws-cli leaves them text too.)
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        self._client: Any = boto3.session.Session(botocore_session=core).client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region,
            config=botocore.config.Config(
                s3={"addressing_style": config.addressing_style},
                # ours also cover the body and share a budget, so botocore's are off
                retries={"total_max_attempts": 1},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=config.read_timeout_s,
                request_checksum_calculation=config.request_checksum_calculation,
                response_checksum_validation=config.response_checksum_validation,
                max_pool_connections=MAX_CONNECTIONS,
            ),
        )

    def list(
        self, uri: str, after: str = "", up_to: str = "", page_size: int = LIST_PAGE_KEYS
    ) -> Iterator[VideoObject]:
        """Objects below a prefix that ends at a slash, page by page; folder markers are skipped."""
        bucket, start = split_s3(uri)[0], {"StartAfter": split_s3(after)[1]} if after else {}
        for page in self._pages(uri, {"MaxKeys": page_size, **start}):
            for entry in page.get("Contents", ()):
                found = f"{S3_SCHEME}{bucket}/{entry['Key']}"
                if up_to and found > up_to:  # text and its UTF-8 have the same order
                    return
                if not found.endswith("/"):
                    yield VideoObject(found, entry["ETag"].strip('"'), entry["Size"])

    def folders(self, uri: str, max_requests: int | None = None) -> Iterator[str]:
        """Common prefixes, page by page."""
        for page in islice(self._pages(uri, {"Delimiter": "/"}), max_requests):
            for entry in page.get("CommonPrefixes", ()):
                yield f"{S3_SCHEME}{split_s3(uri)[0]}/{entry['Prefix'][:-1]}"

    def _pages(self, uri: str, conditions: dict[str, Any]) -> Iterator[dict[str, Any]]:
        bucket, prefix = split_s3(uri)
        request: dict[str, Any] = {
            "Bucket": bucket,
            "Prefix": f"{prefix.rstrip('/')}/" if prefix else "",
            "MaxKeys": LIST_PAGE_KEYS,
            **conditions,
        }
        while True:
            page = self._call(uri, "list_objects_v2", request)
            yield page
            if not page["IsTruncated"]:
                return
            request.pop("StartAfter", None)
            request["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, uri: str) -> VideoObject:
        """Size and etag of one object."""
        return self._stat(uri, None, Patience())

    def open(self, uri: str, etag: str | None = None) -> BinaryIO:
        """A buffered range reader of one version: every request says If-Match.

        Without an etag it is pinned to the version found now, so that an object replaced halfway
        is an error and never a mixture. All its requests share one patience.
        """
        patience = Patience()
        found = self._stat(uri, etag, patience)
        read_range = partial(self.read_range, patience=patience)
        return io.BufferedReader(RangeReader(read_range, found), READ_AHEAD_BYTES)

    def read_bytes(self, uri: str) -> bytes:
        """The whole object, as its ETag has it; in one request if that is an MD5."""
        doubtful: set[tuple[str, str]] = set()

        def get() -> bytes:
            with translated(uri, ObjectChangedError):
                answer = self._client.get_object(**address(uri))
                body = read_body(answer)
            found, expected = md5(body), md5_of(answer)
            if found == expected:
                return body
            try:
                size_bytes = self._head(uri, etag_of(answer) or None).size_bytes
            except ObjectChangedError:  # since: no version was asked for, so take the new one
                raise TransientStorageError(uri, "replaced while it was read") from None
            if len(body) != size_bytes:
                raise TransientStorageError(uri, f"{len(body)} of {size_bytes} bytes arrived")
            # Some servers' ETags only look like an MD5: all the bytes, twice the same, are good
            if expected is not None and (found, expected) not in doubtful:
                doubtful.add((found, expected))
                raise TransientStorageError(uri, "the bytes are not those of their ETag")
            return body

        return self._retrying(get)

    def read_range(
        self, version: VideoObject, start: int, length: int, patience: Patience | None = None
    ) -> bytes:
        """``length`` > 0 bytes from ``start``, of that version; all of them, or an error."""
        request = {
            **address(version.uri),
            "IfMatch": f'"{version.etag}"',
            "Range": f"bytes={start}-{start + length - 1}",
        }

        def get() -> bytes:
            with translated(version.uri, ObjectChangedError):
                answer = self._client.get_object(**request)
                return read_range_body(answer, version, start, length)

        return self._retrying(get, patience)

    def put(self, uri: str, data: bytes) -> None:
        """Create or replace."""
        self._put(uri, data, {}, ObjectChangedError)

    def put_if_absent(self, uri: str, data: bytes) -> None:
        """PUT with ``If-None-Match: *``; 412 is AlreadyExistsError."""
        if len(data) >= IN_PARTS_FROM_BYTES and not self._has_proved_parts:
            prove_conditional_parts(self._call, uri)
            self._has_proved_parts = True
        self._put(uri, data, {"IfNoneMatch": "*"}, AlreadyExistsError)

    def put_if_match(self, uri: str, data: bytes, etag: str) -> None:
        """PUT with ``If-Match``; 412 is ObjectChangedError."""
        self._put(uri, data, {"IfMatch": f'"{etag}"'}, ObjectChangedError)

    def _put(
        self, uri: str, data: bytes, conditions: dict[str, Any], precondition: type[StorageError]
    ) -> None:
        if len(data) >= IN_PARTS_FROM_BYTES:
            put_in_parts(self._call, uri, data, conditions, precondition)
        else:
            request = {**address(uri), "Body": data, **conditions}
            self._call(uri, "put_object", request, precondition)

    def _stat(self, uri: str, etag: str | None, patience: Patience) -> VideoObject:
        return self._retrying(lambda: self._head(uri, etag), patience)

    def _head(self, uri: str, etag: str | None) -> VideoObject:
        """One attempt."""
        request = {**address(uri), **({"IfMatch": f'"{etag}"'} if etag is not None else {})}
        with translated(uri, ObjectChangedError):
            try:
                answer: dict[str, Any] = self._client.head_object(**request)
            except botocore_errors.ClientError as error:
                if error_code(error) in _UNEXPLAINED_CODES:
                    # whether credentials or permissions are at fault says the answer to a GET
                    self._client.get_object(**request, Range="bytes=0-0")["Body"].close()
                raise
        if etag is not None and etag_of(answer) != etag:
            raise ObjectChangedError(uri, "the object changed since listed (another ETag came)")
        return VideoObject(uri, etag_of(answer), answer["ContentLength"])

    def _call(
        self,
        uri: str,
        method: str,
        request: dict[str, Any],
        precondition: type[StorageError] = ObjectChangedError,
    ) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            with translated(uri, precondition):
                answer: dict[str, Any] = getattr(self._client, method)(**request)
            missing = _NEEDED.get(method, frozenset()) - answer.keys()
            if missing:  # botocore takes no body for an empty one
                raise TransientStorageError(uri, f"no complete answer (without {min(missing)})")
            return answer

        return self._retrying(call)

    def _retrying(self, operation: Callable[[], T], patience: Patience | None = None) -> T:
        return retrying(operation, self._max_attempts, self._budget, patience)

"""Large objects in parts: one part in memory beside the data, nothing left behind by a failure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipeline.storage.errors import (
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage.uris import join_uri, parent_uri, split_s3

PART_BYTES = 16 << 20
PROBE_NAME = "_conditional-upload-probe"  # readers of Parquet folders skip what begins so
_PROBE = b"Shows that uploads in parts heed If-None-Match; written once, never changed.\n"

Call = Callable[[str, str, dict[str, Any], type[StorageError]], dict[str, Any]]
"""(URI, client method, its arguments, what HTTP 412 means) -> answer, with retries."""


def address(uri: str) -> dict[str, Any]:
    """The object as botocore's arguments."""
    bucket, key = split_s3(uri)
    return {"Bucket": bucket, "Key": key}


def put_in_parts(
    call: Call, uri: str, data: bytes, conditions: dict[str, Any], precondition: type[StorageError]
) -> None:
    """Upload parts and complete under the conditions (If-None-Match, If-Match).

    Whatever ends it early, an interrupt included, what was uploaded is aborted. (An upload whose
    answer to *create* was lost has a name that nobody knows: let the bucket's life cycle rules
    abort what is incomplete after a day.)
    """
    target = address(uri)
    created = call(uri, "create_multipart_upload", target, ObjectChangedError)
    upload = {**target, "UploadId": created["UploadId"]}
    try:
        parts = []
        for number, start in enumerate(range(0, len(data), PART_BYTES), 1):
            body = data[start : start + PART_BYTES]
            request = {**upload, "PartNumber": number, "Body": body}
            answer = call(uri, "upload_part", request, ObjectChangedError)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        request = {**upload, "MultipartUpload": {"Parts": parts}, **conditions}
        try:
            call(uri, "complete_multipart_upload", request, precondition)
        except NotFoundError:
            # Completed by an attempt whose answer was lost, or aborted by somebody else.
            if precondition is AlreadyExistsError:
                with suppress(NotFoundError):
                    call(uri, "head_object", target, ObjectChangedError)
                    raise AlreadyExistsError(uri, "an object is there, the upload gone") from None
            raise TransientStorageError(uri, "the upload in parts is gone") from None
    except BaseException:
        with suppress(StorageError):
            call(uri, "abort_multipart_upload", upload, ObjectChangedError)
        raise


def prove_conditional_parts(call: Call, uri: str) -> None:
    """Raise StorageError if the server ignores If-None-Match where an upload is completed.

    Some do that honour it in a plain put, which is all that a committer tries at its start. A tiny
    object beside ``uri`` is the proof; two that prove at once put the same bytes.
    """
    probe = join_uri(parent_uri(uri), PROBE_NAME)
    with suppress(AlreadyExistsError):
        request = {**address(probe), "Body": _PROBE, "IfNoneMatch": "*"}
        call(probe, "put_object", request, AlreadyExistsError)
    try:
        put_in_parts(call, probe, _PROBE, {"IfNoneMatch": "*"}, AlreadyExistsError)
    except AlreadyExistsError:
        return
    raise StorageError(
        uri, "the server ignores If-None-Match in uploads in parts; write smaller parts"
    )

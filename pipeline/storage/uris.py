"""The arithmetic of URIs: pure text, nothing decoded, nothing looked up (except the cwd)."""

from __future__ import annotations

import os

from pipeline.storage.errors import UnsupportedUriError

S3_SCHEME = "s3://"
FILE_SCHEME = "file://"


def is_s3(uri: str) -> bool:
    """Whether the URI names something in S3."""
    return uri.startswith(S3_SCHEME)


def has_scheme(uri: str) -> bool:
    """Whether the text begins like ``http://``."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.isalnum()


def split_s3(uri: str) -> tuple[str, str]:
    """``s3://bucket/any/key`` -> (``bucket``, ``any/key``); the key is verbatim."""
    bucket, _, key = uri.removeprefix(S3_SCHEME).partition("/")
    if not is_s3(uri) or not bucket:
        raise UnsupportedUriError(uri, "not an s3://bucket/key URI")
    return bucket, key


def local_path(uri: str) -> str:
    """The absolute path of a local URI, so that an id never depends on the current directory."""
    path = uri.removeprefix(FILE_SCHEME)
    if has_scheme(path):
        raise UnsupportedUriError(uri, "neither a local path nor s3://bucket/key")
    return os.path.abspath(path)


def join_uri(base: str, *names: str) -> str:
    """``base/name/...`` with exactly one slash between."""
    return "/".join((base.rstrip("/"), *names))


def parent_uri(uri: str) -> str:
    """The folder (or bucket) that holds the object."""
    base = uri if is_s3(uri) else local_path(uri)
    return base.rpartition("/")[0]


def resolve_uri(folder: str, reference: str) -> str:
    """What a manifest in ``folder`` means by ``reference``: absolute, or relative to the folder.

    A scheme that no storage serves goes through as it is, to fail where it is opened.
    """
    if reference.startswith((FILE_SCHEME, "/")):
        return local_path(reference)
    if has_scheme(reference):
        return reference
    if is_s3(folder):
        return join_uri(folder, reference)
    return local_path(os.path.join(folder, reference))


def uri_suffix(uri: str) -> str:
    """The lower-case suffix with its dot (``.mp4``), or an empty string."""
    name = uri.rpartition("/")[2]
    return os.path.splitext(name)[1].lower()

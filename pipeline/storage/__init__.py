"""Where bytes live: local folders and S3, behind one small protocol.

A URI names an object *verbatim*: ``s3://bucket/key`` is the key as S3 has it, and a local path is
the path as the file system has it (``file://`` in front is dropped). Nothing is percent-decoded,
so spaces, ``+``, ``%``, ``#``, ``?`` and any UTF-8 are themselves.
"""

from pipeline.storage.base import Opener, Storage, storage_for
from pipeline.storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CredentialsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    TransientStorageError,
    UnsupportedUriError,
)
from pipeline.storage.uris import join_uri, parent_uri, resolve_uri, uri_suffix

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "CredentialsError",
    "NotFoundError",
    "ObjectChangedError",
    "Opener",
    "Storage",
    "StorageError",
    "TransientStorageError",
    "UnsupportedUriError",
    "join_uri",
    "parent_uri",
    "resolve_uri",
    "storage_for",
    "uri_suffix",
]

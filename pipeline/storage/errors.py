"""What can go wrong with an object; every error names its URI and none carries a credential."""

from __future__ import annotations

from typing import ClassVar

from pipeline.storage.redaction import shown


class StorageError(Exception):
    """An operation on one object failed. ``code`` is stable and fit for a failure row."""

    code: ClassVar[str] = "storage_error"

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)  # both in args, so that it survives pickling
        self.uri = uri
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: {shown(self.uri)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self.uri)!r}, {self.reason!r})"


class NotFoundError(StorageError):
    """No such object, folder or bucket."""

    code = "not_found"


class AccessDeniedError(StorageError):
    """The credentials are good but don't allow this; never retried."""

    code = "access_denied"


class CredentialsError(StorageError):
    """No credentials, or none that the server accepts (expired, unknown): no object is in reach."""

    code = "credentials"


class ObjectChangedError(StorageError):
    """The object is not the version that was listed."""

    code = "object_changed"


class AlreadyExistsError(StorageError):
    """A conditional put found an object under that name."""

    code = "already_exists"


class TransientStorageError(StorageError):
    """Throttling, a reset, a timeout, a truncated body: raised once the attempts are used up."""

    code = "storage_unavailable"


class UnsupportedUriError(StorageError):
    """A scheme that is neither ``s3://`` nor a local path, or an S3 URI without a bucket."""

    code = "unsupported_uri"

"""What botocore raises, as this project's errors: which are transient, and no text of theirs.

Only codes are quoted, and botocore's exception is not chained: messages of servers and of the HTTP
library hold addresses, key ids and whole URLs, which a traceback would print.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import botocore.exceptions as botocore_errors
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from pipeline.storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CredentialsError,
    NotFoundError,
    StorageError,
    TransientStorageError,
)

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
_TRANSIENT_CODES = frozenset(
    {
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "InternalError",
        # the body of a put did not arrive as it was sent
        "IncompleteBody",
        "BadDigest",
        "XAmzContentSHA256Mismatch",
    }
)
# 409: a put or delete of the same key was under way; S3 asks for another try, which then meets 412
_TRANSIENT_STATUS = frozenset({409, 429, 500, 502, 503, 504})
_INCOMPLETE_ANSWERS = (
    botocore_errors.ConnectionError,  # name resolution, TLS
    botocore_errors.HTTPClientError,  # connect and read timeouts, resets, proxies
    botocore_errors.IncompleteReadError,
    botocore_errors.ResponseStreamingError,
    botocore_errors.FlexibleChecksumError,  # a body that is not what was stored
    ResponseParserError,  # XML that breaks off
    urllib3.exceptions.HTTPError,  # in the middle of a body botocore translates but some of these
)


@contextmanager
def translated(uri: str, precondition: type[StorageError]) -> Iterator[None]:
    """botocore's errors -> ours; ``precondition`` is what HTTP 412 means."""
    try:
        yield
    except botocore_errors.ClientError as error:
        raise _from_answer(uri, error, precondition) from None
    except _INCOMPLETE_ANSWERS as error:
        raise TransientStorageError(uri, f"no complete answer ({type(error).__name__})") from None
    except (
        botocore_errors.NoCredentialsError,
        botocore_errors.PartialCredentialsError,
        botocore_errors.CredentialRetrievalError,
    ) as error:
        raise CredentialsError(uri, f"no credentials ({type(error).__name__})") from None
    except botocore_errors.BotoCoreError as error:
        raise StorageError(uri, f"request not possible ({type(error).__name__})") from None


def error_code(error: botocore_errors.ClientError) -> str:
    """S3's name of the error; the HTTP status in digits if the answer has no body."""
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


def _from_answer(
    uri: str, error: botocore_errors.ClientError, precondition: type[StorageError]
) -> StorageError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error_code(error)
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

"""URIs as they may be shown: what a presigned URL or a URL with a password carries is masked."""

from __future__ import annotations

import re

_MASK = "***"
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_QUERY = re.compile(
    r"([?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid"
    r"|access_token|token|api_?key|password|secret)=)[^&;\s]+",
    re.IGNORECASE,
)


def shown(uri: str) -> str:
    """The URI fit for a log line: secrets masked, control characters escaped (one line)."""
    masked = _SECRET_QUERY.sub(rf"\1{_MASK}", _USER_INFO.sub(f"{_MASK}@", uri))
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in masked
    )

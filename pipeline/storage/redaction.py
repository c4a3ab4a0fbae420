"""Text and URIs as they may be shown: what a presigned or a password URL carries is masked."""

from __future__ import annotations

import re

_MASK = "***"
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_QUERY = re.compile(
    r"([?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid"
    r"|access_token|token|api_?key|password|secret)=)[^&;\s]+",
    re.IGNORECASE,
)


def mask_secrets(text: str) -> str:
    """Hide ``user:password@`` and signed or secret query values of URLs in any text."""
    return _SECRET_QUERY.sub(rf"\1{_MASK}", _USER_INFO.sub(f"{_MASK}@", text))


def shown(uri: str) -> str:
    """The URI fit for a log line: secrets masked, control characters escaped (one line)."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in mask_secrets(uri)
    )

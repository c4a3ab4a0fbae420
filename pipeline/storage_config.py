"""The settings of S3 and servers that speak it."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from pipeline.config_section import Section

ChecksumMode = Literal["when_supported", "when_required"]


def _plain_url(url: str) -> str:
    """Refuse what could not work, and credentials where they would end up in logs."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// URL")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong in a URL; they come from the default chain")
    return url


class StorageConfig(Section):
    """How to reach S3 (credentials come from the default chain, never from here)."""

    endpoint_url: Annotated[str, AfterValidator(_plain_url)] | None = None
    """URL of an S3-compatible server; None is AWS, or what AWS_ENDPOINT_URL says."""
    region: str | None = None
    """None takes the default chain's."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Path style is what most S3-compatible servers want."""
    request_checksum_calculation: ChecksumMode | None = None
    """when_required: for servers that reject the CRC-32 which uploads carry (trailing, over TLS);
    when_supported: always send one; None takes the default chain's, which is that of AWS."""
    response_checksum_validation: ChecksumMode | None = None
    """when_supported: ask for and compare the checksums that whole objects were stored with; None
    takes the default chain's."""
    max_attempts: int = Field(default=8, ge=1)
    """Attempts per request at most, with full jitter between them: fewer once a process has used up
    its retry budget, or a request has lost a minute to failed ones."""
    read_timeout_s: float = Field(default=20.0, gt=0, le=20.0)
    """Longest silence of a server that is to answer, s. No more than 20: all attempts have to end
    before video.limits.timeout_s blames the video."""

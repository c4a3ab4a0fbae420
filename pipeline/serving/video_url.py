"""A request's video URL, read strictly (pure): what two parsers could read differently is refused.

Nothing is repaired, but a path's characters are percent-encoded. What is allowed is decided
elsewhere; here is only what the URL says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote, unquote, unquote_to_bytes

from pipeline.serving.allowed_hosts import normal_host
from pipeline.serving.video_errors import invalid_url

DEFAULT_PORTS = {"https": 443, "http": 80}
MAX_URL_CHARS = 8192
"""Of all URLs but data URLs."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_REMOTE = re.compile(r"//([^/?#]*)([^#]*)")
_AUTHORITY = re.compile(r"([^:]+)(?::([0-9]{0,5}))?")
_S3 = re.compile(r"//([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)")
_FILE = re.compile(r"//([^/]*)(/.*)")
_DATA_HEADER = re.compile(r"data:(video/[a-z0-9.+-]+)(;[a-z0-9-]+=[^;,]*)*;base64", re.IGNORECASE)
_MAX_DATA_HEADER_CHARS = 256
_URL_CHARS = "!#$%&'()*+,/:;=?@[]~"  # beside letters, digits and -._ : left as they are


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """http or https. ``host`` as ``normal_host`` gives it; ``target``: path and query, ASCII."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)

    @property
    def authority(self) -> str:
        """Host, and the port if it is not the scheme's own."""
        is_default = self.port == DEFAULT_PORTS[self.scheme]
        return self.host if is_default else f"{self.host}:{self.port}"

    @property
    def text(self) -> str:
        """The URL. Its query may be a signature: not for people."""
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def shown(self) -> str:
        """The URL without its query."""
        return self.text.partition("?")[0]


@dataclass(frozen=True, slots=True)
class DataUrl:
    """The video itself, as base64."""

    media_type: str
    payload: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class S3Url:
    """An object; the key is verbatim and has no segment ``.`` or ``..``, encoded ones included."""

    uri: str


@dataclass(frozen=True, slots=True)
class FileUrl:
    """A file of this machine; the path is absolute and percent-decoded."""

    path: str = field(repr=False)


VideoUrl: TypeAlias = RemoteUrl | DataUrl | S3Url | FileUrl


def parse_video_url(url: str) -> VideoUrl:
    """What the URL says. Raises VideoRefusedError (400)."""
    if url[:5].lower() == "data:":
        return _data_url(url)
    if len(url) > MAX_URL_CHARS:
        raise invalid_url(f"it is longer than {MAX_URL_CHARS} characters")
    if _CONTROL.search(url) or "\\" in url:
        raise invalid_url("percent-encode control characters and backslashes")
    found = _SCHEME.match(url)
    scheme = found[1].lower() if found else ""
    rest = url[found.end() :] if found else ""
    match scheme:
        case "http" | "https":
            return _remote_url(scheme, rest)
        case "s3":
            return _s3_url(rest)
        case "file":
            return _file_url(rest)
    raise invalid_url("https://, data:video/...;base64, s3:// or file:// is wanted")


def _remote_url(scheme: str, rest: str) -> RemoteUrl:
    parts = _REMOTE.match(rest)
    if parts is None:
        raise invalid_url(f"{scheme}://host/path is wanted")
    if "@" in parts[1]:
        raise invalid_url("user names and passwords are not accepted")
    authority = _AUTHORITY.fullmatch(parts[1])
    if authority is None:
        raise invalid_url("a DNS name is wanted as host (addresses are not accepted)")
    try:
        host = normal_host(authority[1])
    except ValueError as error:
        raise invalid_url("a DNS name is wanted as host (addresses are not accepted)") from error
    port = int(authority[2] or DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise invalid_url("the port is not one")
    target = quote(parts[2], safe=_URL_CHARS)
    return RemoteUrl(scheme, host, port, target if target.startswith("/") else f"/{target}")


def _data_url(url: str) -> DataUrl:
    comma = url.find(",", 0, _MAX_DATA_HEADER_CHARS)
    header = _DATA_HEADER.fullmatch(url, 0, comma) if comma > 0 else None
    if header is None:
        raise invalid_url("a data URL has to begin like data:video/mp4;base64,")
    return DataUrl(header[1].lower(), url[comma + 1 :])


def _s3_url(rest: str) -> S3Url:
    parts = _S3.fullmatch(rest)
    if parts is None:
        raise invalid_url("s3://bucket/key is wanted")
    # A key may hold anything, but clients and proxies on the way shorten such paths.
    if any(unquote(segment) in (".", "..") for segment in re.split(r"/|%2[fF]", parts[2])):
        raise invalid_url("keys with the segments . or .. are not accepted")
    return S3Url(f"s3://{parts[1]}/{parts[2]}")


def _file_url(rest: str) -> FileUrl:
    parts = _FILE.fullmatch(rest)
    if parts is None or parts[1].lower() not in ("", "localhost"):
        raise invalid_url("file:///path is wanted, without a host")
    if "?" in parts[2] or "#" in parts[2]:
        raise invalid_url("percent-encode ? and # in the path")
    try:
        path = unquote_to_bytes(parts[2]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid_url("the path is not UTF-8") from error
    if "\0" in path:
        raise invalid_url("the path has a null byte")
    return FileUrl(path)

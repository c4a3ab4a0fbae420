"""Fetch a video over http(s) from an allowed host, and from nowhere else.

A host's addresses are looked up once and all checked; the connection is made to one of those very
addresses, so a second answer of the DNS changes nothing. Every redirect starts from the top. No
proxy, no cookie, no credential takes part, and one clock covers it all.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Protocol, TypeAlias
from urllib.parse import urljoin

import h11

from pipeline.serving.address_rules import AddressRules
from pipeline.serving.allowed_hosts import AllowedHost
from pipeline.serving.held_video import HeldVideo
from pipeline.serving.video_errors import (
    VideoFetchError,
    VideoRefusedError,
    invalid_url,
    not_allowed,
    too_large,
)
from pipeline.serving.video_url import DEFAULT_PORTS, RemoteUrl, parse_video_url
from pipeline.serving_config import VideoAccessConfig

_CONNECT_TIMEOUT_S = 5.0  # for each address of a host
_READ_BYTES = 256 << 10
_MAX_HEADER_BYTES = 16 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

_Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Resolver(Protocol):
    """Looks a host up."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """All its addresses, as text. OSError: there are none."""
        ...


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """What the machine's resolver says (hosts file, DNS)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class VideoFetcher:
    """Fetches from the hosts that the configuration allows.

    TLS is checked against the system's authorities, or those that SSL_CERT_FILE names.
    """

    def __init__(self, access: VideoAccessConfig, resolver: Resolver) -> None:
        self._access = access
        self._resolver = resolver
        self._hosts = [AllowedHost.parse(entry) for entry in access.allowed_domains]
        self._addresses = AddressRules(access.allowed_private_addresses)
        self._tls = ssl.create_default_context()

    def check(self, url: RemoteUrl) -> None:
        """VideoRefusedError (403) unless the configuration allows scheme, host and port."""
        if url.scheme == "http" and not self._access.allow_http:
            raise not_allowed("http:// URLs are not allowed here: use https://")
        default_port = DEFAULT_PORTS[url.scheme]
        if not any(host.allows(url.host, url.port, default_port) for host in self._hosts):
            raise not_allowed(
                f"videos from {url.authority} are not allowed here; whoever runs the endpoint can "
                "add the host to serving.video_access.allowed_domains"
            )

    async def fetch(self, url: RemoteUrl, into: HeldVideo) -> None:
        """Write the video into the file. Raises VideoRefusedError or VideoFetchError."""
        timeout_s = self._access.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(self._access.max_redirects + 1):
                    location = await self._get(url, into)
                    if location is None:
                        return
                    url = _redirected(url, location)
        except TimeoutError as error:
            message = f"the video did not arrive in {timeout_s:g} s"
            raise VideoFetchError(504, "video_fetch_timeout", message) from error
        message = f"more than {self._access.max_redirects} redirects: use the last one's URL"
        raise VideoFetchError(400, "too_many_redirects", message)

    async def _get(self, url: RemoteUrl, into: HeldVideo) -> str | None:
        """One request: write its body, or return where it redirects to."""
        self.check(url)
        reader, writer = await self._connect(url, await self._checked_addresses(url))
        try:
            return await _Exchange(reader, writer, self._access.max_bytes).get(url, into)
        except (OSError, h11.RemoteProtocolError) as error:
            raise _failed(f"the connection to {url.host} broke off") from error
        finally:
            writer.transport.abort()  # closing TLS in order would wait for the other side

    async def _checked_addresses(self, url: RemoteUrl) -> Sequence[str]:
        try:
            addresses = await self._resolver(url.host, url.port)
        except OSError as error:
            raise _failed(f"the host {url.host} was not found") from error
        if not addresses:
            raise _failed(f"the host {url.host} has no address")
        if not all(self._addresses.allows(address) for address in addresses):
            raise not_allowed(
                f"the host {url.host} is not a public one; whoever runs the endpoint can add its "
                "network to serving.video_access.allowed_private_addresses"
            )
        return addresses

    async def _connect(self, url: RemoteUrl, addresses: Sequence[str]) -> _Stream:
        is_tls = url.scheme == "https"
        for address in addresses:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    return await asyncio.open_connection(
                        address,  # never the name: it would be looked up again
                        url.port,
                        ssl=self._tls if is_tls else None,
                        server_hostname=url.host if is_tls else None,
                    )
            except ssl.SSLCertVerificationError as error:
                raise _failed(f"the certificate of {url.host} is not valid for it") from error
            except OSError:  # TimeoutError is one
                continue
        raise _failed(f"no connection to {url.host}")


class _Exchange:
    """One request and its answer over one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._max_bytes = max_bytes
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES)

    async def get(self, url: RemoteUrl, into: HeldVideo) -> str | None:
        request = h11.Request(
            method="GET",
            target=url.target,
            headers=[
                ("Host", url.authority),
                ("User-Agent", "lvspec"),
                ("Accept", "video/*, */*;q=0.5"),
                ("Accept-Encoding", "identity"),
                ("Connection", "close"),
            ],
        )
        self._writer.write(self._http.send(request) or b"")
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()
        response = await self._next()
        while isinstance(response, h11.InformationalResponse):
            response = await self._next()
        if not isinstance(response, h11.Response):
            raise _failed(f"{url.host} hung up without an answer")
        location = _header(response, b"location")
        if response.status_code in _REDIRECTS and location:
            return location
        self._check(url, response)
        while isinstance(event := await self._next(), h11.Data):
            into.write(bytes(event.data))
        if not isinstance(event, h11.EndOfMessage):
            raise _failed(f"{url.host} hung up before the end of the video")
        return None

    async def _next(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event

    def _check(self, url: RemoteUrl, response: h11.Response) -> None:
        """Whether the body is a video's own bytes, and not too many by its own account."""
        status = response.status_code
        if status in (404, 410):
            message = f"{url.host} has no such video (HTTP {status})"
            raise VideoFetchError(400, "video_not_found", message)
        if 400 <= status < 500 and status not in (408, 429):
            message = f"{url.host} does not give the video away (HTTP {status})"
            raise VideoFetchError(400, "video_fetch_failed", message)
        if status != 200:
            raise _failed(f"{url.host} answered with HTTP {status}")
        if _header(response, b"content-encoding").lower() not in ("", "identity"):
            message = f"{url.host} sent the video compressed: it has to send it as it is"
            raise VideoFetchError(400, "content_encoding", message)
        if int(_header(response, b"content-length") or 0) > self._max_bytes:
            raise too_large(self._max_bytes)


def _header(response: h11.Response, wanted: bytes) -> str:
    """A header's values, or an empty text."""
    return ", ".join(value.decode("latin-1") for name, value in response.headers if name == wanted)


def _redirected(url: RemoteUrl, location: str) -> RemoteUrl:
    """Where a redirect leads; VideoRefusedError unless to http(s), and never from https to http."""
    if not location.isascii() or not location.isprintable():
        raise invalid_url("it redirects to something that is no URL")
    try:
        # urljoin would repair an absolute URL that is not well-formed
        is_absolute = _ABSOLUTE.match(location) is not None
        target = parse_video_url(location if is_absolute else urljoin(url.text, location))
    except ValueError as error:  # of urljoin
        raise invalid_url("it redirects to something that is no URL") from error
    except VideoRefusedError as error:
        raise invalid_url("it redirects to a URL that is not accepted") from error
    if not isinstance(target, RemoteUrl):
        raise not_allowed("the video's URL redirects to something other than https://")
    if url.scheme == "https" and target.scheme == "http":
        raise not_allowed("the video's URL redirects from https:// to http://")
    return target


def _failed(reason: str) -> VideoFetchError:
    return VideoFetchError(502, "video_fetch_failed", f"the video could not be fetched: {reason}")

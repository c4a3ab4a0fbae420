"""A server of listings alone: ListObjectsV2 over HTTP of objects that nobody stores.

It speaks what a listing needs (prefix, delimiter, start-after, continuation tokens, max-keys) over
any sorted sequence of keys, so a million objects cost it nothing. It checks no signatures.
"""

from __future__ import annotations

import argparse
import bisect
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol
from urllib.parse import parse_qsl, quote, urlsplit

MAX_PAGE_KEYS = 1000
_LAST = "\U0010ffff"


class Keys(Protocol):
    """Keys in the order of their UTF-8; a list will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...


@dataclass(frozen=True, slots=True)
class GeneratedKeys:
    """``<folder>/day-0007/clip-000000042.mp4``: as many keys as wanted, in order, none kept."""

    num_objects: int
    per_folder: int = 10_000
    prefix: str = "videos"

    def __len__(self) -> int:
        return self.num_objects

    def __getitem__(self, index: int, /) -> str:
        if not 0 <= index < self.num_objects:
            raise IndexError(index)
        return f"{self.prefix}/day-{index // self.per_folder:06d}/clip-{index:09d}.mp4"


@dataclass(slots=True)
class Listing:
    """A bucket to list: keys in the order of their UTF-8; ``etags`` has those that are set."""

    keys: Keys
    size_bytes: int = 20_000_000
    etags: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before each answer: the round trip and the work of a store that is far away."""
    num_requests: int = 0

    def etag(self, key: str) -> str:
        """Version of an object: of its name, unless one is set."""
        return self.etags.get(key) or blake2b(key.encode(), digest_size=16).hexdigest()

    def page(self, query: dict[str, str]) -> str:
        """The answer to ListObjectsV2 as XML."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        size = min(int(query.get("max-keys", MAX_PAGE_KEYS)), MAX_PAGE_KEYS)
        token = query.get("continuation-token")
        after = bytes.fromhex(token).decode() if token else query.get("start-after", "")
        entries: list[str] = []
        last = ""
        for name, is_folder in self._names(prefix, delimiter, after):
            if len(entries) == size:
                entries.append(
                    "<IsTruncated>true</IsTruncated>"
                    f"<NextContinuationToken>{last.encode().hex()}</NextContinuationToken>"
                )
                break
            last = name + _LAST * is_folder  # all that lies in a folder comes before
            entries.append(
                f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>"
                if is_folder
                else f"<Contents><Key>{quote(name)}</Key>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{self.etag(name)}&quot;</ETag><Size>{self.size_bytes}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        else:
            entries.append("<IsTruncated>false</IsTruncated>")
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Prefix>{quote(prefix)}</Prefix><MaxKeys>{size}</MaxKeys>"
            f"<EncodingType>url</EncodingType>{''.join(entries)}</ListBucketResult>"
        )

    def _names(self, prefix: str, delimiter: str, after: str) -> Iterator[tuple[str, bool]]:
        """Keys and common prefixes after a name, in order; which of the two."""
        # Python compares text by code points, which is the order of its UTF-8 as well.
        index = max(bisect.bisect_left(self.keys, prefix), bisect.bisect_right(self.keys, after))
        while index < len(self.keys) and (key := self.keys[index]).startswith(prefix):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end < 0:
                yield key, False
                index += 1
            else:
                folder = key[: end + len(delimiter)]
                yield folder, True
                index = bisect.bisect_right(self.keys, folder + _LAST)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as S3 keeps them
    wbufsize = -1  # headers and body leave together
    server: ListingServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        is_listing = query.get("list-type") == "2" and url.path.strip("/") == self.server.bucket
        self.server.listing.num_requests += 1
        time.sleep(self.server.listing.delay_s)
        text = (
            self.server.listing.page(query)
            if is_listing
            else "<Error><Code>NoSuchBucket</Code></Error>"
        )
        body = text.encode()
        self.send_response(200 if is_listing else 404)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are counted."""


class ListingServer(ThreadingHTTPServer):
    """One bucket on a free port of loopback."""

    daemon_threads = True

    def __init__(self, listing: Listing, bucket: str = "corpus") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.listing = listing
        self.bucket = bucket

    @property
    def endpoint_url(self) -> str:
        """What ``storage.endpoint_url`` must be."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def listing_server(listing: Listing) -> Iterator[ListingServer]:
    """A running server in a thread of this process."""
    with ListingServer(listing) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    """Serve in a process of its own: prints the endpoint URL, ends with its standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_objects", type=int)
    parser.add_argument("--delay-s", type=float, default=0.0)
    arguments = parser.parse_args()
    listing = Listing(GeneratedKeys(arguments.num_objects), delay_s=arguments.delay_s)
    with listing_server(listing) as server:
        print(server.endpoint_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

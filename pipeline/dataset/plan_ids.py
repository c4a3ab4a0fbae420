"""Sets of 128-bit ids that ten million videos fit into easily: about 20 bytes an id."""

from __future__ import annotations

import hashlib

ID_BYTES = 16
_NUM_BUCKETS = 1 << 16


class IdSet:
    """A set of 16-byte digests, compared in full; ids are only ever added.

    Digests are evenly spread, so an id's first two bytes choose its bucket, and a bucket is nothing
    but its ids, one after the other: no object per id, no sorting, no rebuilding as it grows.
    """

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(_NUM_BUCKETS)]
        self._num_ids = 0

    def add(self, an_id: bytes) -> bool:
        """Take an id in; False if it was there. Raises ValueError if it is no 16 bytes."""
        if an_id in self:
            return False
        self._buckets[an_id[0] << 8 | an_id[1]] += an_id
        self._num_ids += 1
        return True

    def __contains__(self, an_id: bytes) -> bool:
        if len(an_id) != ID_BYTES:
            raise ValueError(f"an id has {ID_BYTES} bytes, not {len(an_id)}")
        bucket = self._buckets[an_id[0] << 8 | an_id[1]]
        at = bucket.find(an_id)
        while at > 0 and at % ID_BYTES:  # these bytes are there, but across two ids
            at = bucket.find(an_id, at + 1)
        return at >= 0

    def __len__(self) -> int:
        return self._num_ids


def uri_id(uri: str) -> bytes:
    """The id of a name, whatever bytes it has."""
    return hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=ID_BYTES).digest()

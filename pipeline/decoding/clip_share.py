"""Choosing a share of the clips, by their ids alone: alike in every process and every run."""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Purpose(StrEnum):
    """What clips are chosen for; each purpose chooses by itself."""

    PLAIN = "plain"
    SHADOW = "shadow"
    TOKEN_SAMPLE = "token_sample"
    PLAIN_FIRST = "plain_first"


def is_chosen(clip_id: str, share: float, purpose: Purpose) -> bool:
    """Whether the clip is among ``share`` (0 to 1) of all clips."""
    return share > 0 and hash64(clip_id, purpose) < share * 2**64


def hash64(clip_id: str, purpose: str) -> int:
    """64 bits that depend on the clip and on the purpose alone."""
    digest = hashlib.blake2b(f"{purpose}\0{clip_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")

"""Exponential back-off with full jitter, for transient errors only."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.errors import TransientStorageError

T = TypeVar("T")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 20.0


def full_jitter_s(attempt: int, share: float) -> float:
    """Delay after failed attempt 1, 2, ..., s: ``share`` (uniform in [0, 1)) of a growing bound.

    Uniform from zero rather than around a mean: clients that failed together don't return together.
    """
    return share * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (attempt - 1))


def retrying(operation: Callable[[], T], max_attempts: int) -> T:
    """Run until it succeeds; the last TransientStorageError, or any other error, goes through."""
    for attempt in range(1, max_attempts):
        try:
            return operation()
        except TransientStorageError:
            time.sleep(full_jitter_s(attempt, random.random()))
    return operation()

"""Which failed requests are sent again, and when: transient errors only, with full jitter.

Three things bound the retries. ``max_attempts`` bounds one request. A ``Patience`` bounds the time
that one request, or all requests of one reader, lose to failures. And a ``RetryBudget`` bounds the
load: when a store is down or throttles, thousands of requests that are each sent several times are
what keeps it down, so the requests of a process to one server share a bucket of retries that only
answers refill.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from pipeline.storage.errors import StorageError, TransientStorageError

T = TypeVar("T")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 20.0
# No attempt begins after this much was lost to failures. With the longest attempt of a reader
# (s3_body.py) that is less than video.limits.timeout_s: a server that stalls is the server's fault
# (TransientStorageError, ends the run), not the video's (a timeout, a failure row).
PATIENCE_S = 60.0


def full_jitter_s(attempt: int, share: float) -> float:
    """Delay after failed attempt 1, 2, ..., s: ``share`` (uniform in [0, 1)) of a growing bound.

    Uniform from zero rather than around a mean: clients that failed together don't return together.
    """
    return share * min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (attempt - 1))


class Patience:
    """Time that may be lost to failed attempts and the pauses after them."""

    def __init__(self, limit_s: float | None = None) -> None:
        self._left_s = PATIENCE_S if limit_s is None else limit_s

    def lose(self, lost_s: float) -> bool:
        """Count time lost, s; whether another attempt may begin."""
        self._left_s -= lost_s
        return self._left_s > 0


class RetryBudget:
    """A token bucket: a retry takes a token, an answer brings some back. Safe between threads.

    An answer at once brings a fifth of a token, one after retries the token of the last retry.
    So up to three requests in ten may fail for ever; when all fail, a process sends ``capacity``
    requests again and from then on each request once, until answers come.
    """

    def __init__(self, capacity: float = 100.0, per_answer: float = 0.2) -> None:
        self._capacity = capacity
        self._per_answer = per_answer
        self._tokens = capacity
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Pay for a retry; False if there is nothing to pay with."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def earn(self, after_retries: bool) -> None:
        """A request was answered, whatever the answer was."""
        with self._lock:
            gain = 1.0 if after_retries else self._per_answer
            self._tokens = min(self._capacity, self._tokens + gain)


def budget_of(endpoint_url: str | None) -> RetryBudget:
    """The budget that this process has for a server: one that fails takes nothing from another."""
    return _budget(endpoint_url, os.getpid())


@lru_cache(maxsize=64)
def _budget(endpoint_url: str | None, pid: int) -> RetryBudget:
    """``pid`` is in the key as a forked child must not wait for a lock that its parent held."""
    return RetryBudget()


def retrying(
    operation: Callable[[], T],
    max_attempts: int,
    budget: RetryBudget,
    patience: Patience | None = None,
) -> T:
    """Run until it succeeds; the last TransientStorageError, or any other error, goes through."""
    patience = patience or Patience()
    attempt = 1
    while True:
        started_s = time.monotonic()
        try:
            result = operation()
        except TransientStorageError:
            pause_s = full_jitter_s(attempt, random.random())
            may_go_on = patience.lose(time.monotonic() - started_s + pause_s)
            if attempt >= max_attempts or not may_go_on or not budget.take():
                raise
            time.sleep(pause_s)
            attempt += 1
        except StorageError:
            budget.earn(attempt > 1)
            raise
        else:
            budget.earn(attempt > 1)
            return result

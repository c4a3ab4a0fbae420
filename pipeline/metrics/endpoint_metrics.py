"""An endpoint's requests, as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.metrics import definitions as metrics
from pipeline.metrics.decoding_metrics import count_decoding
from pipeline.metrics.sink import MetricSink

if TYPE_CHECKING:  # generation.py imports torch
    from pipeline.serving.generation import Committed, Finished, ServiceStatus


class EndpointMetrics:
    """Told what happens to requests; ``clock`` is monotonic, s."""

    def __init__(self, sink: MetricSink, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock

    def request_started(self) -> RequestMetrics:
        """A request is handed to the engine; tell the result what becomes of it."""
        return RequestMetrics(self._sink, self._clock)

    def refused(self, code: str) -> None:
        """A request that never reached the engine, by the code of its OpenAI error."""
        self._sink.inc(metrics.REQUEST_ERRORS, code=code)

    def set_status(self, status: ServiceStatus) -> None:
        """The engine's counts now."""
        usage = status.num_running / status.num_slots if status.num_slots else 0.0
        self._sink.set(metrics.REQUESTS_RUNNING, status.num_running)
        self._sink.set(metrics.REQUESTS_WAITING, status.num_waiting)
        self._sink.set(metrics.SLOTS, status.num_slots)
        self._sink.set(metrics.KV_CACHE_USAGE, usage)
        self._sink.set(metrics.ENGINE_ALIVE, float(status.is_alive))


class RequestMetrics:
    """One request in the engine, from hand-over to its end."""

    def __init__(self, sink: MetricSink, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._started_s = clock()
        self._first_token_s: float | None = None
        self._last_token_s: float | None = None

    def committed(self, event: Committed) -> None:
        """A round committed tokens."""
        if not event.tokens:
            return
        now_s = self._clock()
        if self._last_token_s is None:
            self._first_token_s = now_s
        else:
            self._sink.observe(metrics.INTER_TOKEN_LATENCY, now_s - self._last_token_s)
        self._last_token_s = now_s

    def finished(self, event: Finished) -> None:
        """The answer is whole."""
        sink, stats = self._sink, event.stats
        sink.inc(metrics.REQUEST_SUCCESS, finished_reason=str(event.finish_reason))
        count_decoding(sink, stats)
        sink.inc(metrics.PREFIX_CACHE_QUERIES, stats.prompt_tokens)
        sink.inc(metrics.PREFIX_CACHE_HITS, event.num_cached_tokens)
        sink.observe(metrics.QUEUE_TIME, event.queue_s)
        sink.observe(metrics.TIME_TO_FIRST_TOKEN, event.first_token_s)
        sink.observe(metrics.E2E_LATENCY, self._clock() - self._started_s)
        if self._first_token_s is not None and self._last_token_s is not None:
            later_tokens = stats.output_tokens - 1
            if later_tokens > 0:
                decoding_s = self._last_token_s - self._first_token_s
                sink.observe(metrics.TIME_PER_OUTPUT_TOKEN, decoding_s / later_tokens)

    def cancelled(self) -> None:
        """The client left."""
        self._sink.inc(metrics.REQUESTS_CANCELLED)

    def failed(self, code: str) -> None:
        """The engine gave no answer, or broke off, by the code of the OpenAI error."""
        self._sink.inc(metrics.REQUEST_ERRORS, code=code)

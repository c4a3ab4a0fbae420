"""Where numbers go: Prometheus text (pipeline/metrics/prometheus.py) or Ray (actors/telemetry.py).

A sink knows the model and the workload that it was made for; callers name the other labels.
"""

from __future__ import annotations

from typing import Protocol

from pipeline.metrics.definitions import Metric


class MetricSink(Protocol):
    """Takes numbers of the metrics in the table, from any thread."""

    def inc(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter, at least 0."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Say a gauge's value."""

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a histogram."""


class Fanout:
    """A sink that tells several others."""

    def __init__(self, *sinks: MetricSink) -> None:
        self._sinks = sinks

    def inc(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        for sink in self._sinks:
            sink.inc(metric, amount, **labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Say a gauge's value."""
        for sink in self._sinks:
            sink.set(metric, value, **labels)

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a histogram."""
        for sink in self._sinks:
            sink.observe(metric, value)

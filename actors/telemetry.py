"""Metrics through Ray: each node's agent exports them to Prometheus, with ``ray_`` before the name.

One registry a process: Ray knows a metric by its name, so sinks of one process share its metrics
and differ in labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.config import RunConfig
from pipeline.dataset.schema import RunLabels
from pipeline.metrics.definitions import Metric, Workload
from pipeline.metrics.job_metrics import JobMetrics
from pipeline.records import CaptionerTiming, Outcome


class RaySink:
    """Tells Ray's metrics of one workload; ``ray.init`` comes first."""

    def __init__(self, workload: Workload, model_name: str) -> None:
        self._common = {"model_name": model_name, "workload": str(workload)}

    def inc(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter, at least 0."""
        if amount:  # Ray refuses to add nothing
            _counter(metric).inc(amount, tags=self._common | labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Say a gauge's value."""
        _gauge(metric).set(value, tags=self._common | labels)

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a histogram."""
        _histogram(metric).observe(value, tags=self._common)


@cache
def _counter(metric: Metric) -> Counter:
    return Counter(metric.name, metric.help, metric.label_names)


@cache
def _gauge(metric: Metric) -> Gauge:
    return Gauge(metric.name, metric.help, metric.label_names)


@cache
def _histogram(metric: Metric) -> Histogram:
    return Histogram(metric.name, metric.help, list(metric.buckets), metric.label_names)


def observed(
    outcomes: Iterable[Outcome | CaptionerTiming], config: RunConfig
) -> Iterator[Outcome | CaptionerTiming]:
    """Pass a run's outcomes on, and count each as it passes."""
    model_id = RunLabels.of(config, digest="", run_id="").model_id  # as the rows have it
    sink = RaySink(Workload.JOB, model_id)
    metrics = JobMetrics(sink, config.speculation.fidelity.min_facts_kept)
    for outcome in outcomes:
        metrics.observe(outcome)
        yield outcome

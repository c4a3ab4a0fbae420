"""The endpoint's own GET /metrics: Prometheus' text format, of one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from pipeline.metrics.definitions import METRICS, Metric, MetricKind, Workload

__all__ = ["CONTENT_TYPE", "PrometheusSink"]


class PrometheusSink:
    """Keeps one workload's metrics in a registry of its own, so that two never share numbers."""

    def __init__(self, workload: Workload, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._common = {"model_name": model_name, "workload": str(workload)}
        self._counters: dict[Metric, Counter] = {}
        self._gauges: dict[Metric, Gauge] = {}
        self._histograms: dict[Metric, Histogram] = {}
        for metric in METRICS:
            if workload in metric.workloads:
                self._register(metric)

    def _register(self, metric: Metric) -> None:
        labels = metric.label_names
        family: Counter | Gauge | Histogram
        match metric.kind:
            case MetricKind.COUNTER:
                family = Counter(metric.name, metric.help, labels, registry=self._registry)
                self._counters[metric] = family
            case MetricKind.GAUGE:
                family = Gauge(metric.name, metric.help, labels, registry=self._registry)
                self._gauges[metric] = family
            case MetricKind.HISTOGRAM:
                family = Histogram(
                    metric.name,
                    metric.help,
                    labels,
                    registry=self._registry,
                    buckets=metric.buckets,
                )
                self._histograms[metric] = family
        if not metric.labels and metric.kind is not MetricKind.GAUGE:
            family.labels(**self._common)  # at 0 from the start: a first event is an increase, too

    def inc(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter, at least 0."""
        self._counters[metric].labels(**self._common, **labels).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Say a gauge's value."""
        self._gauges[metric].labels(**self._common, **labels).set(value)

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a histogram."""
        self._histograms[metric].labels(**self._common).observe(value)

    def text(self) -> str:
        """All of it, to be sent as CONTENT_TYPE."""
        return generate_latest(self._registry).decode()

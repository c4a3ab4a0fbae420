"""Guards what Prometheus reads of a Ray node: the job's and the endpoint's numbers, by their names.

A real Ray, whose agent is scraped over HTTP until what was told has arrived, or the time is up.
"""

import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from actors.local_services import free_port
from actors.telemetry import RaySink, observed
from pipeline.config import RunConfig
from pipeline.metrics.definitions import METRICS, MetricKind, Workload
from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.records import CaptionerTiming, FinishReason, Outcome, ShadowComparison
from pipeline.serving.generation import Finished, ServiceStatus
from pipeline.settings import load_run_config
from tests.make_records import caption_record, clip_spec, failure
from tests.ray_driver import ray_driver

ARRIVES_WITHIN_S = 60.0
"""A process reports every second here, its agent answers whenever it is asked."""
MODEL = "reference_pair/target"
"""As the rows of the recipe name it."""


class Scrape:
    """What an agent answered."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    @property
    def is_answer(self) -> bool:
        """Whether the agent was there."""
        return bool(self._samples)

    def total(self, name: str, **labels: str) -> float | None:
        """Over all processes; None where no series has these labels."""
        values = [
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(values) if values else None


Read = Callable[[Callable[[Scrape], bool]], Scrape]


@dataclass(frozen=True)
class Node:
    """A Ray node with one driver, and its agent's port."""

    driver: ProcessPoolExecutor
    port: int


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    port = free_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.delenv("RAY_ADDRESS", raising=False)
        with ray_driver(
            address="local",
            num_cpus=1,
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            _metrics_export_port=port,
            _system_config={"metrics_report_interval_ms": 1000},
        ) as driver:
            yield Node(driver, port)


@pytest.fixture
def read(node: Node) -> Read:
    """Scrape the node's agent until what it answers is as wanted; the last answer in any case."""

    def until(is_wanted: Callable[[Scrape], bool]) -> Scrape:
        deadline = time.monotonic() + ARRIVES_WITHIN_S
        while True:
            scrape = Scrape(_text(node.port))
            if is_wanted(scrape) or time.monotonic() > deadline:
                return scrape
            time.sleep(0.5)

    return until


def _text(port: int) -> str:
    """Empty while the agent is not there yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture
def config() -> RunConfig:
    where = ["--recipe", "reference", "--input", "in", "--output", "out"]
    return load_run_config([*where, "--speculation.fidelity.min-facts-kept", "0.98"])


def pass_through(
    outcomes: list[Outcome | CaptionerTiming], config: RunConfig
) -> list[Outcome | CaptionerTiming]:
    return list(observed(iter(outcomes), config))


def test_the_jobs_outcomes_reach_prometheus(node: Node, read: Read, config: RunConfig) -> None:
    shadow = ShadowComparison(equal=True, output_tokens=9, facts_kept=1.0)
    outcomes = [
        caption_record(),
        caption_record(clip_spec("b"), shadow=shadow, relaxed_share=0.5),
        failure(clip_spec("c"), "timeout"),
        CaptionerTiming(waited_s=1.0, busy_s=3.0),
    ]
    passed = node.driver.submit(pass_through, outcomes, config).result()
    assert [each.__class__ for each in passed] == [each.__class__ for each in outcomes]
    assert [getattr(each, "clip_id", None) for each in passed] == [
        getattr(each, "clip_id", None) for each in outcomes
    ]

    job = {"workload": "job", "model_name": MODEL}
    scrape = read(
        lambda now: (
            now.total("ray_lvspec_clips_captioned_total", **job) == 2
            and now.total("ray_lvspec_failures_total", **job) == 1
            and now.total("ray_lvspec_captioner_waiting_seconds_total", **job) == 1
            and now.total("ray_lvspec_facts_kept", **job) is not None
        )
    )
    count = scrape.total
    assert count("ray_lvspec_clips_captioned_total", finished_reason="stop", **job) == 2
    assert count("ray_lvspec_generation_tokens_total", **job) == 18
    assert count("ray_lvspec_spec_decode_num_draft_tokens_total", **job) == 16
    assert count("ray_lvspec_spec_decode_num_accepted_tokens_total", **job) == 8
    per_position = "ray_lvspec_spec_decode_num_accepted_tokens_per_pos_total"
    assert count(per_position, position="0", **job) == 6
    cause = {"stage": "decode", "code": "timeout", "kind": "transient"}
    assert count("ray_lvspec_failures_total", **cause, **job) == 1
    assert count("ray_lvspec_captioner_busy_seconds_total", **job) == 3
    assert count("ray_lvspec_facts_kept", relaxed_share="0.5", **job) == 1
    assert count("ray_lvspec_min_facts_kept", **job) == 0.98
    assert count("ray_lvspec_relaxed_share", **job) == 0.5
    assert count("ray_lvspec_prompt_tokens_total", **job) == 40


def test_a_gauge_that_is_set_once_stays_while_its_process_lives(
    node: Node, read: Read, config: RunConfig
) -> None:
    """A run says its promise at the start; the agent forgets what is not reported any more."""
    node.driver.submit(pass_through, [], config).result()
    name = "ray_lvspec_min_facts_kept"
    assert read(lambda now: now.total(name) is not None).total(name) == 0.98
    time.sleep(5)  # the agent keeps a gauge for two reports, here 2 s
    assert read(lambda now: now.is_answer).total(name) == 0.98


@ray.remote(num_cpus=0)
class Replica:
    """A process that answers requests, as far as metrics are concerned."""

    def answer(self, first_token_s: float) -> None:
        metrics = EndpointMetrics(RaySink(Workload.ENDPOINT, MODEL))
        metrics.set_status(ServiceStatus(is_alive=True, num_running=1, num_waiting=2, num_slots=4))
        stats = caption_record().caption.stats
        end = Finished("A circle.", FinishReason.STOP, stats, 12, 0.2, first_token_s)
        metrics.request_started().finished(end)
        metrics.refused("queue_full")


_REPLICAS: list[Any] = []
"""Of the driver's process: an actor ends with its last handle."""


def replicas_answer() -> None:
    _REPLICAS.extend(Replica.remote() for _ in range(2))
    ray.get([replica.answer.remote(0.7) for replica in _REPLICAS])


def test_replicas_add_up_and_their_quantiles_are_those_of_the_buckets(
    node: Node, read: Read
) -> None:
    node.driver.submit(replicas_answer).result()
    endpoint = {"workload": "endpoint", "model_name": MODEL}
    first_token = "ray_lvspec_time_to_first_token_seconds"
    scrape = read(
        lambda now: (
            now.total("ray_lvspec_request_success_total", **endpoint) == 2
            and now.total(f"{first_token}_count", **endpoint) == 2
            and now.total("ray_lvspec_num_slots", **endpoint) == 8
        )
    )
    count = scrape.total
    assert count("ray_lvspec_request_success_total", finished_reason="stop", **endpoint) == 2
    assert count("ray_lvspec_request_errors_total", code="queue_full", **endpoint) == 2
    assert count("ray_lvspec_generation_tokens_total", **endpoint) == 18
    assert count("ray_lvspec_num_requests_waiting", **endpoint) == 4
    assert count("ray_lvspec_num_slots", **endpoint) == 8
    assert count(f"{first_token}_count", **endpoint) == 2
    assert count(f"{first_token}_bucket", le="0.5", **endpoint) == 0
    assert count(f"{first_token}_bucket", le="0.75", **endpoint) == 2


def tell_every_metric() -> None:
    for workload in Workload:
        sink = RaySink(workload, "target")
        for metric in METRICS:
            labels = dict.fromkeys(metric.labels, "any")
            match metric.kind:
                case MetricKind.COUNTER:
                    sink.inc(metric, 1.0, **labels)
                case MetricKind.GAUGE:
                    sink.set(metric, 1.0, **labels)
                case MetricKind.HISTOGRAM:
                    sink.observe(metric, 1.0)


def test_every_metric_keeps_its_name(node: Node, read: Read) -> None:
    """The agent's exporter renames what has a unit or a suffix in its way: ours have neither."""
    node.driver.submit(tell_every_metric).result()

    def missing(now: Scrape) -> list[str]:
        names = [
            f"ray_{metric.name}" + ("_bucket" if metric.kind is MetricKind.HISTOGRAM else "")
            for metric in METRICS
        ]
        return [name for name in names if now.total(name, model_name="target") is None]

    assert missing(read(lambda now: not missing(now))) == []

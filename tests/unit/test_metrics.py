"""Guards the metrics: one table, vLLM's names, sums that add up, what a request's end counts as.

What a scraper would read is parsed by prometheus_client's own parser.
"""

import asyncio
import math
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipeline.failure_kinds import KIND_OF_CODE
from pipeline.metrics.decoding_metrics import accepted_per_position, tokens_by_kind
from pipeline.metrics.definitions import METRICS, Metric, MetricKind, Workload
from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.metrics.job_metrics import JobMetrics
from pipeline.metrics.metered_service import MeteredService
from pipeline.metrics.prometheus import PrometheusSink
from pipeline.metrics.sink import Fanout
from pipeline.models.base import Turn
from pipeline.records import (
    CaptionerTiming,
    FinishReason,
    PlainComparison,
    ShadowComparison,
    TokenDecision,
)
from pipeline.serving.generation import (
    Committed,
    DeadlineError,
    EngineGoneError,
    Finished,
    GenerationOptions,
    GenerationRequest,
    QueueFullError,
    ServiceStatus,
)
from tests.make_records import caption_record, clip_spec, failure

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "metrics.md"
STATS = caption_record().caption.stats

VLLM = (
    "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
    "spec_decode_num_accepted_tokens_per_pos_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "num_requests_running",
    "num_requests_waiting",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "kv_cache_usage_perc",
)
"""vLLM's names, less `vllm:`."""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(sink: PrometheusSink) -> Samples:
    """What a scraper reads, by name and labels (less those that all have)."""
    return {
        (sample.name, frozenset(sample.labels.items()) - COMMON): sample.value
        for family in text_string_to_metric_families(sink.text())
        for sample in family.samples
    }


COMMON = frozenset({("model_name", "target"), ("workload", "job")} | {("workload", "endpoint")})


class Scrape:
    """Values of one scrape; of a series that is not there, KeyError."""

    def __init__(self, sink: PrometheusSink) -> None:
        self._samples = samples(sink)

    def __call__(self, name: str, **labels: str) -> float:
        return self._samples[f"lvspec_{name}", frozenset(labels.items())]

    def has(self, name: str, **labels: str) -> bool:
        return (f"lvspec_{name}", frozenset(labels.items())) in self._samples


def job_sink() -> PrometheusSink:
    return PrometheusSink(Workload.JOB, "target")


def endpoint_sink() -> PrometheusSink:
    return PrometheusSink(Workload.ENDPOINT, "target")


# --- the table -----------------------------------------------------------------------------------


def test_names_are_unique_and_say_their_unit() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"lvspec_[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.name)
        assert metric.help.endswith("."), metric.name
        assert metric.kind is not MetricKind.HISTOGRAM or metric.name.endswith("_seconds")


@pytest.mark.parametrize("name", VLLM)
def test_vllms_names_are_ours(name: str) -> None:
    """Dashboards and alerts written for vLLM fit by a change of prefix."""
    assert f"lvspec_{name}" in {metric.name for metric in METRICS}


@pytest.mark.parametrize(
    ("name", "kind", "buckets"),
    [
        ("tokens", MetricKind.COUNTER, ()),
        ("tokens_total", MetricKind.GAUGE, ()),
        ("latency_seconds", MetricKind.HISTOGRAM, ()),
        ("latency_seconds", MetricKind.GAUGE, (1.0,)),
        ("latency_seconds", MetricKind.HISTOGRAM, (0.0, 1.0)),
        ("latency_seconds", MetricKind.HISTOGRAM, (2.0, 1.0)),
    ],
)
def test_a_wrong_definition_is_refused(
    name: str, kind: MetricKind, buckets: tuple[float, ...]
) -> None:
    """Ray would drop it, or Prometheus rename it."""
    with pytest.raises(ValueError, match=name):
        Metric(name, kind, "Help.", (Workload.JOB,), buckets=buckets)


def test_the_docs_list_every_metric_as_it_is() -> None:
    """docs/metrics.md has the code's own table; to renew it, paste what was ``expected``."""
    expected = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(metric.workloads)} "
        f"| {', '.join(f'`{label}`' for label in metric.labels) or '-'} | {metric.help} |"
        for metric in METRICS
    ]
    listed = [line for line in DOCS.read_text().splitlines() if line.startswith("| `lvspec_")]
    assert listed == expected


# --- the job -------------------------------------------------------------------------------------


def test_a_caption_counts_its_tokens_steps_and_seconds() -> None:
    sink = job_sink()
    metrics = JobMetrics(sink)
    metrics.observe(caption_record())
    metrics.observe(caption_record(clip_spec(index=1)))
    scrape = Scrape(sink)
    assert scrape("clips_captioned_total", finished_reason="stop") == 2
    assert scrape("prompt_tokens_total") == 40
    assert scrape("generation_tokens_total") == 18
    assert scrape("spec_decode_num_drafts_total") == 8
    assert scrape("spec_decode_num_draft_tokens_total") == 16
    assert scrape("spec_decode_num_accepted_tokens_total") == 8
    assert scrape("spec_decode_num_accepted_tokens_per_pos_total", position="0") == 6
    assert scrape("spec_decode_num_accepted_tokens_per_pos_total", position="1") == 2
    assert scrape("spec_decode_num_rejections_total", cause="mismatch") == 6
    assert scrape("spec_decode_num_tokens_total", kind="correction") == 8
    assert scrape("decode_seconds_total") == pytest.approx(0.5)
    assert scrape("verify_seconds_total") == pytest.approx(0.4)
    assert scrape("video_decode_seconds_total") == pytest.approx(0.02)


def test_plain_decoding_has_no_drafts() -> None:
    """Else its accepted length would look like a draft that is always wrong."""
    record = caption_record()
    plain = replace(STATS, drafted_tokens=0, accepted_tokens=0, accepted_histogram=(9,))
    sink = job_sink()
    JobMetrics(sink).observe(replace(record, caption=replace(record.caption, stats=plain)))
    assert Scrape(sink)("spec_decode_num_drafts_total") == 0


@pytest.mark.parametrize("code", KIND_OF_CODE)
def test_a_failure_counts_by_stage_code_and_kind(code: str) -> None:
    sink = job_sink()
    JobMetrics(sink).observe(failure(clip_spec(), code))
    kind = str(KIND_OF_CODE[code])
    assert Scrape(sink)("failures_total", stage="decode", code=code, kind=kind) == 1


def test_captioners_tell_how_long_they_waited() -> None:
    sink = job_sink()
    metrics = JobMetrics(sink)
    metrics.observe(CaptionerTiming(waited_s=1.5, busy_s=3.0))
    metrics.observe(CaptionerTiming(waited_s=0.5, busy_s=1.0, mended=("rank 3 died",)))
    scrape = Scrape(sink)
    assert scrape("captioner_waiting_seconds_total") == 2.0
    assert scrape("captioner_busy_seconds_total") == 4.0
    assert scrape("captioner_losses_total") == 1


def test_the_driver_counts_without_torch() -> None:
    """It has none to load, and would need a gigabyte more."""
    code = "import sys, actors.telemetry; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_comparing_can_take_longer_than_the_call() -> None:
    """Of rounding: a counter must not be asked to go down."""
    sink = job_sink()
    JobMetrics(sink).observe(CaptionerTiming(waited_s=-1e-9, busy_s=-1e-9))
    assert Scrape(sink)("captioner_busy_seconds_total") == 0


def test_facts_kept_are_told_by_lambda_with_their_promise() -> None:
    sink = job_sink()
    metrics = JobMetrics(sink, min_facts_kept=0.98)
    for facts_kept in (1.0, 0.5):
        shadow = ShadowComparison(equal=facts_kept == 1, output_tokens=9, facts_kept=facts_kept)
        metrics.observe(caption_record(shadow=shadow, relaxed_share=0.5))
    no_words = ShadowComparison(equal=True, output_tokens=9)
    metrics.observe(caption_record(shadow=no_words, relaxed_share=0.25))
    scrape = Scrape(sink)
    assert scrape("facts_kept", relaxed_share="0.5") == 0.75
    assert 0 <= scrape("facts_kept_low", relaxed_share="0.5") < 0.75
    assert not scrape.has("facts_kept", relaxed_share="0.25")
    assert scrape("min_facts_kept") == 0.98
    assert scrape("shadows_total", equal="true") == 2
    assert scrape("shadows_total", equal="false") == 1


def test_a_promise_that_nobody_made_is_not_exported() -> None:
    sink = job_sink()
    JobMetrics(sink).observe(caption_record())
    assert not Scrape(sink).has("min_facts_kept")
    assert not Scrape(sink).has("relaxed_share")


def test_lambda_is_the_least_that_any_captioner_came_to() -> None:
    """Each captioner steps down by itself: the gauge must not jump back with the next row."""
    sink = job_sink()
    metrics = JobMetrics(sink)
    for relaxed_share in (0.5, 0.25, 0.5):
        metrics.observe(caption_record(relaxed_share=relaxed_share))
    assert Scrape(sink)("relaxed_share") == 0.25


def test_equal_texts_of_plain_decoding_are_counted() -> None:
    sink = job_sink()
    plain = PlainComparison(equal=False, prefill_s=0.1, decode_s=0.5, output_tokens=9)
    JobMetrics(sink).observe(caption_record(plain=plain))
    assert Scrape(sink)("plain_comparisons_total", equal="false") == 1


def test_tokens_by_kind_add_up() -> None:
    loose = replace(STATS, accepted_tokens=4, relaxed_tokens=2, shifted_tokens=1)
    assert tokens_by_kind(loose)["exact"] == 1
    assert sum(tokens_by_kind(loose).values()) == loose.output_tokens


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_positions_add_up_to_what_was_accepted(histogram: list[int]) -> None:
    kept = accepted_per_position(tuple(histogram))
    assert len(kept) == len(histogram) - 1, "as many as are drafted at most"
    assert sum(kept) == sum(length * count for length, count in enumerate(histogram))
    assert list(kept) == sorted(kept, reverse=True), "a token is kept only after those before it"


# --- the endpoint --------------------------------------------------------------------------------

TOKEN = TokenDecision(7, "exact", 7, None, None, " a")


def finished(reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished("A circle.", reason, STATS, 12, queue_s=0.2, first_token_s=0.7)


class ScriptedService:
    """Gives what it is told to, one step each; raises what is in between."""

    model_id = "target"
    draft_model_id = "draft"

    def __init__(self, *script: Committed | Finished | Exception) -> None:
        self._script = script
        self.num_closed = 0

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Committed | Finished]:
        try:
            for step in self._script:
                await asyncio.sleep(0)
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.num_closed += 1

    def status(self) -> ServiceStatus:
        return ServiceStatus(is_alive=True, num_running=3, num_waiting=5, num_slots=4)


class Clock:
    """Half a second later at every look."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 0.5
        return self._now_s


REQUEST = GenerationRequest("r", (Turn("user", "What?"),), None, GenerationOptions(9), 60.0)
BOTH = (Committed(" a", (TOKEN,)), Committed(" b", (TOKEN, TOKEN)), finished())


def answer(service: ScriptedService, sink: PrometheusSink, max_events: int = 99) -> int:
    """Ask once; leave after so many events, as a client does that closes its connection."""

    async def ask() -> int:
        metered = MeteredService(service, EndpointMetrics(sink, Clock()))
        events = metered.generate(REQUEST)
        num_events = 0
        try:
            async for _ in events:
                num_events += 1
                if num_events == max_events:
                    break
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        return num_events

    return asyncio.run(ask())


def test_an_answer_counts_as_vllm_counts_it() -> None:
    sink = endpoint_sink()
    assert answer(ScriptedService(*BOTH), sink) == 3
    scrape = Scrape(sink)
    assert scrape("request_success_total", finished_reason="stop") == 1
    assert scrape("generation_tokens_total") == STATS.output_tokens
    assert scrape("prefix_cache_queries_total") == STATS.prompt_tokens
    assert scrape("prefix_cache_hits_total") == 12
    assert scrape("request_queue_time_seconds_sum") == pytest.approx(0.2)
    assert scrape("time_to_first_token_seconds_sum") == pytest.approx(0.7)
    assert scrape("inter_token_latency_seconds_sum") == pytest.approx(0.5)
    assert scrape("inter_token_latency_seconds_count") == 1, "as often as tokens came, less one"
    assert scrape("e2e_request_latency_seconds_sum") == pytest.approx(1.5)
    per_token_s = scrape("request_time_per_output_token_seconds_sum")
    assert per_token_s == pytest.approx(0.5 / (STATS.output_tokens - 1))
    assert scrape("requests_cancelled_total") == 0
    assert scrape("time_to_first_token_seconds_bucket", le="0.75") == 1
    assert scrape("time_to_first_token_seconds_bucket", le="0.5") == 0


def test_a_client_that_leaves_is_cancelled_and_frees_its_slot() -> None:
    sink, service = endpoint_sink(), ScriptedService(*BOTH)
    answer(service, sink, max_events=1)
    scrape = Scrape(sink)
    assert scrape("requests_cancelled_total") == 1
    assert scrape("e2e_request_latency_seconds_count") == 0
    assert service.num_closed == 1


def test_a_client_that_leaves_after_the_answer_was_served() -> None:
    sink = endpoint_sink()
    answer(ScriptedService(*BOTH), sink, max_events=3)
    assert Scrape(sink)("requests_cancelled_total") == 0
    assert Scrape(sink)("request_success_total", finished_reason="stop") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFullError(64, 2.0), "queue_full"),
        (DeadlineError(), "timeout"),
        (EngineGoneError(), "engine_gone"),
    ],
)
def test_an_error_is_counted_by_its_code_and_passed_on(error: Exception, code: str) -> None:
    sink, service = endpoint_sink(), ScriptedService(error)
    with pytest.raises(type(error)):
        answer(service, sink)
    assert Scrape(sink)("request_errors_total", code=code) == 1
    assert Scrape(sink)("requests_cancelled_total") == 0
    assert service.num_closed == 1


def test_a_bug_is_left_to_the_application_to_count() -> None:
    """It counts every exception that it answers by 500: here it would be counted twice."""
    sink = endpoint_sink()
    with pytest.raises(ZeroDivisionError):
        answer(ScriptedService(ZeroDivisionError()), sink)
    assert "lvspec_request_errors_total{" not in sink.text()
    assert Scrape(sink)("requests_cancelled_total") == 0


def test_what_the_api_refuses_is_counted_too() -> None:
    sink = endpoint_sink()
    EndpointMetrics(sink).refused("invalid_api_key")
    assert Scrape(sink)("request_errors_total", code="invalid_api_key") == 1


def test_the_gauges_follow_the_engine() -> None:
    sink = endpoint_sink()
    MeteredService(ScriptedService(), EndpointMetrics(sink)).status()
    scrape = Scrape(sink)
    assert (scrape("num_requests_running"), scrape("num_requests_waiting")) == (3, 5)
    assert (scrape("num_slots"), scrape("kv_cache_usage_perc")) == (4, 0.75)
    assert scrape("engine_alive") == 1


def test_an_engine_without_slots_is_no_division_by_zero() -> None:
    sink = endpoint_sink()
    EndpointMetrics(sink).set_status(ServiceStatus(False, 0, 0, 0))
    assert (Scrape(sink)("kv_cache_usage_perc"), Scrape(sink)("engine_alive")) == (0, 0)


# --- the text ------------------------------------------------------------------------------------


def test_the_text_has_the_workloads_metrics_and_no_other() -> None:
    for workload in Workload:
        text = PrometheusSink(workload, "target").text()
        typed = set(re.findall(r"^# TYPE (lvspec_\S+) (?:counter|gauge|histogram)$", text, re.M))
        expected = {metric.name for metric in METRICS if workload in metric.workloads}
        assert {name for name in typed if not name.endswith("_created")} == expected


def test_counters_begin_at_zero() -> None:
    """`rate` sees no increase in a series that begins with its first event."""
    scrape = Scrape(endpoint_sink())
    assert scrape("requests_cancelled_total") == 0
    assert math.isclose(scrape("time_to_first_token_seconds_count"), 0)


def test_two_endpoints_of_a_process_do_not_share_numbers() -> None:
    first, second = endpoint_sink(), endpoint_sink()
    EndpointMetrics(first).refused("x")
    assert not Scrape(second).has("request_errors_total", code="x")


def test_a_name_of_a_model_cannot_break_the_text() -> None:
    sink = PrometheusSink(Workload.JOB, 'a"b\nlvspec_forged 1')
    JobMetrics(sink).observe(caption_record())
    names = {family.name for family in text_string_to_metric_families(sink.text())}
    assert "lvspec_forged" not in names


def test_a_fanout_tells_all() -> None:
    sinks = endpoint_sink(), endpoint_sink()
    answer(ScriptedService(*BOTH), Fanout(*sinks))  # type: ignore[arg-type]
    assert samples(sinks[0]).keys() == samples(sinks[1]).keys()
    for sink in sinks:
        scrape = Scrape(sink)
        assert scrape("generation_tokens_total") == STATS.output_tokens
        assert scrape("num_slots") == 4
        assert scrape("request_queue_time_seconds_count") == 1

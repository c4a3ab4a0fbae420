"""Every metric that is exported: one table, which sinks, dashboard and docs/metrics.md go by.

Names, and what they count, are vLLM's where vLLM has the metric, with ``lvspec_`` for ``vllm:``.
Seconds that add up are counters, not histograms: Ray's agent knows a histogram's buckets only, and
makes up its sum from their middles.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "lvspec_"
COMMON_LABELS = ("model_name", "workload")
"""Of every metric: the target, and ``job`` or ``endpoint``."""


class MetricKind(StrEnum):
    """Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Workload(StrEnum):
    """What exports a metric."""

    JOB = "job"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``labels`` are its own, beside COMMON_LABELS; ``buckets`` a histogram's bounds.

    Raises ValueError for a definition that Prometheus or Ray would not take.
    """

    short_name: str
    kind: MetricKind
    help: str
    workloads: tuple[Workload, ...]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.short_name.endswith("_total") != (self.kind is MetricKind.COUNTER):
            raise ValueError(f"{self.short_name}: counters, and they alone, end in _total")
        if bool(self.buckets) != (self.kind is MetricKind.HISTOGRAM):
            raise ValueError(f"{self.short_name}: histograms, and they alone, have buckets")
        if list(self.buckets) != sorted(set(self.buckets)) or any(b <= 0 for b in self.buckets):
            raise ValueError(f"{self.short_name}: buckets must grow, from above 0")

    @property
    def name(self) -> str:
        """As Prometheus knows it; Ray's agent puts ``ray_`` before it."""
        return PREFIX + self.short_name

    @property
    def label_names(self) -> tuple[str, ...]:
        """All of them, in the order in which they are declared."""
        return (*COMMON_LABELS, *self.labels)


_BOTH = (Workload.JOB, Workload.ENDPOINT)
_JOB = (Workload.JOB,)
_ENDPOINT = (Workload.ENDPOINT,)

# vLLM's buckets, s.
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


def _counter(name: str, text: str, workloads: tuple[Workload, ...], *labels: str) -> Metric:
    return Metric(name, MetricKind.COUNTER, text, workloads, labels)


def _gauge(name: str, text: str, workloads: tuple[Workload, ...], *labels: str) -> Metric:
    return Metric(name, MetricKind.GAUGE, text, workloads, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(name, MetricKind.HISTOGRAM, text, _ENDPOINT, buckets=buckets)


# --- tokens and target steps ---------------------------------------------------------------------

PROMPT_TOKENS = _counter(
    "prompt_tokens_total", "Tokens of prompts, visual ones included, cached ones too.", _BOTH
)
GENERATION_TOKENS = _counter("generation_tokens_total", "Tokens of whole answers.", _BOTH)
DRAFTS = _counter(
    "spec_decode_num_drafts_total",
    "Target steps of answers that tokens were drafted for; a step without a draft counts, too.",
    _BOTH,
)
DRAFT_TOKENS = _counter("spec_decode_num_draft_tokens_total", "Drafted tokens.", _BOTH)
ACCEPTED_TOKENS = _counter(
    "spec_decode_num_accepted_tokens_total", "Drafted tokens that were kept.", _BOTH
)
ACCEPTED_PER_POSITION = _counter(
    "spec_decode_num_accepted_tokens_per_pos_total",
    "Drafted tokens that were kept, by position in the draft, from 0.",
    _BOTH,
    "position",
)
TOKENS_BY_KIND = _counter(
    "spec_decode_num_tokens_total",
    "Tokens of answers by why they are there: exact, relaxed, shifted (drafted and kept), "
    "correction (the target's own), bonus. Adds up to generation_tokens_total.",
    _BOTH,
    "kind",
)
ANCHOR_TOKENS = _counter(
    "spec_decode_num_anchor_tokens_total",
    "Drafted tokens that were judged strictly, as what they say hangs on the video.",
    _BOTH,
)
REJECTIONS = _counter(
    "spec_decode_num_rejections_total",
    "Target steps that rejected a drafted token, by why.",
    _BOTH,
    "cause",
)

# --- where the time goes -------------------------------------------------------------------------

PREFILL_SECONDS = _counter(
    "prefill_seconds_total", "Reading prompts, seconds of the batch (they add up).", _BOTH
)
DECODE_SECONDS = _counter(
    "decode_seconds_total",
    "All after the prefills, seconds of the batch: drafting, verifying, scoring and the rest.",
    _BOTH,
)
DRAFT_SECONDS = _counter("draft_seconds_total", "Drafting, seconds of decode_seconds.", _BOTH)
VERIFY_SECONDS = _counter(
    "verify_seconds_total", "The target's steps, seconds of decode_seconds.", _BOTH
)
SCORING_SECONDS = _counter(
    "scoring_seconds_total", "The acceptance rules, seconds of decode_seconds.", _BOTH
)
VIDEO_DECODE_SECONDS = _counter(
    "video_decode_seconds_total",
    "Decoding frames of captioned clips, seconds of a CPU actor.",
    _JOB,
)
CAPTIONER_BUSY_SECONDS = _counter(
    "captioner_busy_seconds_total", "Captioners at work, seconds over all of them.", _JOB
)
CAPTIONER_WAITING_SECONDS = _counter(
    "captioner_waiting_seconds_total",
    "Captioners that wait for frames, seconds over all of them.",
    _JOB,
)

# --- the job -------------------------------------------------------------------------------------

CLIPS_CAPTIONED = _counter(
    "clips_captioned_total", "Captions, by why they ended.", _JOB, "finished_reason"
)
FAILURES = _counter(
    "failures_total",
    "Clips, or whole videos, without a caption, by cause; kind is poison, transient or ours.",
    _JOB,
    "stage",
    "code",
    "kind",
)
CAPTIONER_LOSSES = _counter(
    "captioner_losses_total", "Captioners, or ranks of one, that were lost and started anew.", _JOB
)
PLAIN_COMPARISONS = _counter(
    "plain_comparisons_total",
    "Clips that were also decoded plainly, by whether the text was equal (true, false).",
    _JOB,
    "equal",
)
SHADOWS = _counter(
    "shadows_total",
    "Clips that were also decoded exactly, by whether the text was equal (true, false).",
    _JOB,
    "equal",
)
FACTS_KEPT = _gauge(
    "facts_kept",
    "Mean share (0 to 1) of the exact caption's facts that this run's captions kept, by lambda.",
    _JOB,
    "relaxed_share",
)
FACTS_KEPT_LOW = _gauge(
    "facts_kept_low",
    "Lower end of the 95 % interval of facts_kept, valid however often one looks.",
    _JOB,
    "relaxed_share",
)
MIN_FACTS_KEPT = _gauge("min_facts_kept", "What the fidelity budget promises of facts_kept.", _JOB)
RELAXED_SHARE = _gauge(
    "relaxed_share",
    "Least lambda that was in force so far; 0 is exact decoding, by choice or by the budget.",
    _JOB,
)

# --- the endpoint --------------------------------------------------------------------------------

TIME_TO_FIRST_TOKEN = _histogram(
    "time_to_first_token_seconds", "From hand-over to the first token, s.", _FIRST_TOKEN_S
)
INTER_TOKEN_LATENCY = _histogram(
    "inter_token_latency_seconds",
    "Between two rounds that gave a request tokens, several at once maybe, s.",
    _TOKEN_S,
)
TIME_PER_OUTPUT_TOKEN = _histogram(
    "request_time_per_output_token_seconds",
    "Of a request, from its first token to its last, by token, s.",
    _TOKEN_S,
)
E2E_LATENCY = _histogram(
    "e2e_request_latency_seconds", "From hand-over to the end of the answer, s.", _REQUEST_S
)
QUEUE_TIME = _histogram("request_queue_time_seconds", "From hand-over to the slot, s.", _REQUEST_S)
REQUEST_SUCCESS = _counter(
    "request_success_total", "Answers, by why they ended.", _ENDPOINT, "finished_reason"
)
REQUESTS_CANCELLED = _counter(
    "requests_cancelled_total", "Requests whose client left before the end.", _ENDPOINT
)
REQUEST_ERRORS = _counter(
    "request_errors_total",
    "Requests without an answer, by code; queue_full is HTTP 429, or tried again by /v1/captions.",
    _ENDPOINT,
    "code",
)
REQUESTS_RUNNING = _gauge("num_requests_running", "Requests in slots.", _ENDPOINT)
REQUESTS_WAITING = _gauge("num_requests_waiting", "Requests that wait for a slot.", _ENDPOINT)
SLOTS = _gauge("num_slots", "Requests that can decode together.", _ENDPOINT)
KV_CACHE_USAGE = _gauge(
    "kv_cache_usage_perc",
    "Share (0 to 1) of the KV cache in use: a request takes a whole slot of it.",
    _ENDPOINT,
)
ENGINE_ALIVE = _gauge("engine_alive", "1, or 0 after the engine ended.", _ENDPOINT)
PREFIX_CACHE_QUERIES = _counter(
    "prefix_cache_queries_total",
    "Prompt tokens that were looked for in the prefix cache.",
    _ENDPOINT,
)
PREFIX_CACHE_HITS = _counter(
    "prefix_cache_hits_total", "Prompt tokens that were read from the prefix cache.", _ENDPOINT
)

METRICS: tuple[Metric, ...] = tuple(
    value for value in tuple(globals().values()) if isinstance(value, Metric)
)
"""All of the above: what is defined is exported."""

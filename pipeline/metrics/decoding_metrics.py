"""One answer's decoding, as metrics: the same for a clip of the job and a request."""

from __future__ import annotations

from itertools import accumulate

from pipeline.metrics import definitions as metrics
from pipeline.metrics.sink import MetricSink
from pipeline.records import DecodingStats


def count_decoding(sink: MetricSink, stats: DecodingStats) -> None:
    """Add an answer's tokens, target steps and seconds."""
    sink.inc(metrics.PROMPT_TOKENS, stats.prompt_tokens)
    sink.inc(metrics.GENERATION_TOKENS, stats.output_tokens)
    if stats.drafted_tokens:
        sink.inc(metrics.DRAFTS, stats.target_steps)
    sink.inc(metrics.DRAFT_TOKENS, stats.drafted_tokens)
    sink.inc(metrics.ACCEPTED_TOKENS, stats.accepted_tokens)
    for position, count in enumerate(accepted_per_position(stats.accepted_histogram)):
        sink.inc(metrics.ACCEPTED_PER_POSITION, count, position=str(position))
    for kind, count in tokens_by_kind(stats).items():
        sink.inc(metrics.TOKENS_BY_KIND, count, kind=kind)
    sink.inc(metrics.ANCHOR_TOKENS, stats.anchor_tokens)
    for cause, count in stats.rejected_by_cause.items():
        sink.inc(metrics.REJECTIONS, count, cause=cause)
    sink.inc(metrics.PREFILL_SECONDS, stats.prefill_s)
    sink.inc(metrics.DECODE_SECONDS, stats.decode_s)
    sink.inc(metrics.DRAFT_SECONDS, stats.draft_s)
    sink.inc(metrics.VERIFY_SECONDS, stats.verify_s)
    sink.inc(metrics.SCORING_SECONDS, stats.scoring_s)


def accepted_per_position(accepted_histogram: tuple[int, ...]) -> tuple[int, ...]:
    """Target steps that kept the drafted token at each position: those that kept more than it."""
    kept_at_least = tuple(accumulate(reversed(accepted_histogram)))[::-1]
    return kept_at_least[1:]


def tokens_by_kind(stats: DecodingStats) -> dict[str, int]:
    """An answer's tokens by TokenDecision's kinds; they add up to ``output_tokens``."""
    return {
        "exact": stats.accepted_tokens - stats.relaxed_tokens - stats.shifted_tokens,
        "relaxed": stats.relaxed_tokens,
        "shifted": stats.shifted_tokens,
        "correction": stats.correction_tokens,
        "bonus": stats.bonus_tokens,
    }

"""A run's outcomes, as metrics."""

from __future__ import annotations

from collections import Counter, defaultdict

from pipeline.bounded_mean import interval
from pipeline.metrics import definitions as metrics
from pipeline.metrics.decoding_metrics import count_decoding
from pipeline.metrics.sink import MetricSink
from pipeline.records import Caption, CaptionerTiming, CaptionRecord, Failure, Outcome


class JobMetrics:
    """Told of every outcome of one run; ``min_facts_kept`` is the promise, where one is known."""

    def __init__(self, sink: MetricSink, min_facts_kept: float | None = None) -> None:
        self._sink = sink
        self._facts_kept: defaultdict[float | None, Counter[float]] = defaultdict(Counter)
        self._least_relaxed_share: float | None = None
        if min_facts_kept is not None:
            sink.set(metrics.MIN_FACTS_KEPT, min_facts_kept)

    def observe(self, outcome: Outcome | CaptionerTiming) -> None:
        """Count one outcome, or a captioner's call."""
        match outcome:
            case CaptionRecord():
                self._sink.inc(metrics.VIDEO_DECODE_SECONDS, outcome.video_decode_s)
                self._observe_caption(outcome.caption)
            case Failure():
                stage, code, kind = str(outcome.stage), outcome.code, str(outcome.kind)
                self._sink.inc(metrics.FAILURES, stage=stage, code=code, kind=kind)
            case CaptionerTiming():
                self._sink.inc(metrics.CAPTIONER_BUSY_SECONDS, max(0.0, outcome.busy_s))
                self._sink.inc(metrics.CAPTIONER_WAITING_SECONDS, max(0.0, outcome.waited_s))
                self._sink.inc(metrics.CAPTIONER_LOSSES, len(outcome.mended))

    def _observe_caption(self, caption: Caption) -> None:
        sink = self._sink
        sink.inc(metrics.CLIPS_CAPTIONED, finished_reason=str(caption.finish_reason))
        count_decoding(sink, caption.stats)
        if caption.plain is not None:
            sink.inc(metrics.PLAIN_COMPARISONS, equal=_flag(caption.plain.equal))
        if caption.relaxed_share is not None:
            least = self._least_relaxed_share
            if least is None or caption.relaxed_share < least:
                self._least_relaxed_share = caption.relaxed_share
                sink.set(metrics.RELAXED_SHARE, caption.relaxed_share)
        if caption.shadow is not None:
            sink.inc(metrics.SHADOWS, equal=_flag(caption.shadow.equal))
            if caption.shadow.facts_kept is not None:
                self._observe_facts(caption.relaxed_share, caption.shadow.facts_kept)

    def _observe_facts(self, relaxed_share: float | None, facts_kept: float) -> None:
        seen = self._facts_kept[relaxed_share]
        seen[facts_kept] += 1
        mean = sum(value * count for value, count in seen.items()) / seen.total()
        low, _ = interval(seen)
        label = "none" if relaxed_share is None else f"{relaxed_share:g}"
        self._sink.set(metrics.FACTS_KEPT, mean, relaxed_share=label)
        self._sink.set(metrics.FACTS_KEPT_LOW, low, relaxed_share=label)


def _flag(value: bool) -> str:
    return "true" if value else "false"

"""What the report of a run tells, read from its data set alone, in bounded memory.

Rows are streamed and added up by the same arithmetic as a run's own summary. Kept are at most
``max_clips`` captions and a few failures of each cause: those with the least clip_id, which is a
hash, so a fair sample, and the same one every time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.row_records import caption_record, failure_record
from pipeline.dataset.run_rows import (
    NoSuchRunError,
    iter_run_rows,
    parts_of_run,
    run_file,
    run_ids,
    run_metrics,
)
from pipeline.dataset.summary import RunSummary, SummaryBuilder
from pipeline.records import CaptionRecord, Failure
from pipeline.report.html_timeline import Stretch, Timeline
from pipeline.storage import Storage

EXAMPLES_PER_CAUSE = 5

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class FailureCause:
    """One code: how often, and some of its failures."""

    code: str
    kind: str
    """Whose fault it is; empty in rows of before that was told."""
    count: int
    examples: Sequence[Failure]


@dataclass(frozen=True, slots=True, eq=False)
class ModelNames:
    """What captioned, as every row of the run says."""

    model_id: str
    model_revision: str | None
    draft_model_id: str | None
    draft_model_revision: str | None
    prompt_id: str


@dataclass(frozen=True, slots=True, eq=False)
class ReportFacts:
    """One run."""

    run_id: str
    dataset_uri: str
    summary: RunSummary
    """Of its rows. ``elapsed_s`` and what only the run itself could see are its own figures; 0 of a
    run that left none."""
    metrics: Mapping[str, Any] | None
    """What the run says of itself; None if it was killed, or goes on."""
    names: ModelNames | None
    """None of a run without captions."""
    causes: Sequence[FailureCause]
    """The most frequent first."""
    timeline: Sequence[tuple[datetime, Stretch]]
    """(start of the stretch, UTC; what was captioned in it)."""
    gallery: Sequence[CaptionRecord]
    """By source and place in it."""
    config_yaml: str
    """As the run left it, secrets masked; empty if it did not."""
    versions_json: str


def report_facts(storage: Storage, layout: Layout, run_id: str, max_clips: int) -> ReportFacts:
    """Read them.

    Raises NoSuchRunError, StorageError, ArrowException of a damaged part.
    """
    if run_id not in run_ids(storage, layout):
        raise NoSuchRunError(f"no run {run_id} in {layout.uri}/runs")
    parts = parts_of_run(storage, layout, run_id)
    builder, timeline = SummaryBuilder(), Timeline()
    with_tokens, without = _Sample[CaptionRecord](max_clips), _Sample[CaptionRecord](max_clips)
    names: ModelNames | None = None
    for row in iter_run_rows(storage, layout, Table.CAPTIONS, run_id, parts):
        record = caption_record(row)
        builder.add(record)
        kept = row["shadow_facts_kept"]
        timeline.add(row["created_at"], record.caption.relaxed_share, kept)
        (with_tokens if record.caption.decisions else without).add(row["clip_id"], record)
        names = names or _names(row)
    causes = _causes(iter_run_rows(storage, layout, Table.FAILURES, run_id, parts))
    metrics = run_metrics(storage, layout, run_id)
    summary = _with_own_figures(builder.build(elapsed_s=0.0), causes, metrics or {})
    gallery = [*with_tokens, *without][:max_clips]
    return ReportFacts(
        run_id=run_id,
        dataset_uri=layout.uri,
        summary=summary,
        metrics=metrics,
        names=names,
        causes=causes,
        timeline=timeline.stretches(),
        gallery=sorted(gallery, key=lambda clip: (clip.spec.video.uri, clip.spec.start_s)),
        config_yaml=run_file(storage, layout, run_id, "config.yaml"),
        versions_json=run_file(storage, layout, run_id, "versions.json"),
    )


class _Sample(Generic[Item]):
    """At most ``size`` items: those with the least key, in order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, int, Item]] = []
        self._num_seen = 0

    def add(self, key: str, item: Item) -> None:
        """Keep the item, if its key is small enough; keys are as long as each other."""
        self._num_seen += 1  # no two entries are equal, so items are never compared
        heapq.heappush(self._heap, (-int.from_bytes(key.encode(), "big"), self._num_seen, item))
        if len(self._heap) > self._size:
            heapq.heappop(self._heap)

    def __iter__(self) -> Iterator[Item]:
        return (item for _, _, item in sorted(self._heap, key=lambda entry: -entry[0]))


def _names(row: Mapping[str, Any]) -> ModelNames:
    return ModelNames(
        model_id=row["model_id"],
        model_revision=row["model_revision"],
        draft_model_id=row["draft_model_id"],
        draft_model_revision=row["draft_model_revision"],
        prompt_id=row["prompt_id"],
    )


def _causes(rows: Iterator[Mapping[str, Any]]) -> list[FailureCause]:
    """Counted here, not by the summary: rows may have codes that this version does not know."""
    counts: Counter[tuple[str, str]] = Counter()
    samples: dict[tuple[str, str], _Sample[Failure]] = {}
    for row in rows:
        cause = row["code"], row["kind"] or ""
        counts[cause] += 1
        sample = samples.setdefault(cause, _Sample(EXAMPLES_PER_CAUSE))
        sample.add(row["clip_id"], failure_record(row))
    return [
        FailureCause(*cause, count=count, examples=list(samples[cause]))
        for cause, count in counts.most_common()
    ]


def _with_own_figures(
    summary: RunSummary, causes: Sequence[FailureCause], metrics: Mapping[str, Any]
) -> RunSummary:
    """What no caption row knows: the failures, and the wall clock, the captioners' waiting and the
    gangs that were lost, which only the run itself could see."""
    by_code: Counter[str] = Counter()
    by_kind: Counter[str] = Counter()
    for cause in causes:
        by_code[cause.code] += cause.count
        by_kind[cause.kind] += cause.count
    return replace(
        summary,
        num_failures=by_code.total(),
        failures_by_code=dict(sorted(by_code.items())),
        failures_by_kind=dict(sorted(by_kind.items())),
        elapsed_s=float(metrics.get("elapsed_s", 0.0)),
        captioner_wait_share=float(metrics.get("captioner_wait_share", 0.0)),
        num_captioner_losses=int(metrics.get("num_captioner_losses", 0)),
    )

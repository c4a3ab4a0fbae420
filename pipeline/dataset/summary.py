"""What a run did, in numbers that add up: pure arithmetic over its outcomes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import Any

from pipeline.bounded_mean import interval
from pipeline.dataset.repeated_captions import RepeatedCaptions
from pipeline.records import CaptionerTiming, CaptionRecord, DecodingStats, Failure, PlainComparison
from pipeline.statistics import bootstrap, share, speed_up


@dataclass(frozen=True, slots=True)
class PlainSummary:
    """Speculative against plain decoding of the same clips in the same process."""

    num_clips: int
    equal_share: float
    """Clips whose text was the same both ways."""
    speed_up: float
    """Output tokens/s of decoding, speculative over plain; over all these clips together."""
    speed_up_low: float
    """2.5 % bound of a bootstrap over clips (each keeps its pair of timings)."""
    speed_up_high: float
    """97.5 % bound."""


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """Loose against exact decoding of the same clips."""

    num_clips: int
    equal_share: float
    """Clips whose text was the same both ways."""
    equal_share_low: float
    """Lower end of its 95 % interval (Wilson)."""
    equal_share_high: float
    """Upper end."""
    length_ratio: float
    """Output tokens, loose over exact; over all these clips together."""
    facts_kept: tuple[FactsKept, ...]
    """By lambda, the greatest first; empty where there was nothing to tell facts by."""


@dataclass(frozen=True, slots=True)
class FactsKept:
    """What the captions of one lambda kept of the exact captions' facts (F1, mean over clips)."""

    relaxed_share: float | None
    """None where the method has no lambda."""
    num_clips: int
    mean: float
    low: float
    """Lower end of the 95 % interval of pipeline/bounded_mean.py."""
    high: float
    """Upper end."""


class RunStatus(StrEnum):
    """How a run ended."""

    DONE = "done"
    """All that was planned has a row."""
    OVER_BUDGET = "over_budget"
    """The same, or ended early, but with more failures than its budget bears."""
    INTERRUPTED = "interrupted"
    """By SIGTERM or Ctrl-C; what was captioned is committed."""
    FAILED = "failed"
    """By an error; what was committed stays."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run; ratios over nothing are 0. ``asdict`` is JSON."""

    elapsed_s: float
    """Wall clock from the start of planning to the last commit, model loading included, s."""
    num_captions: int
    num_failures: int
    failures_by_code: dict[str, int]
    prompt_tokens: int
    visual_tokens: int
    output_tokens: int
    target_steps: int
    drafted_tokens: int
    accepted_tokens: int
    relaxed_tokens: int
    shifted_tokens: int
    anchor_tokens: int
    correction_tokens: int
    bonus_tokens: int
    rejected_by_cause: dict[str, int]
    """Target steps that rejected a drafted token, by why."""
    accepted_histogram: tuple[int, ...]
    mean_accepted_length: float
    """Accepted drafted tokens per target step; bonus tokens are not counted."""
    tokens_per_target_step: float
    """mean_accepted_length + 1: with the target's own token of each step; 0 of no steps."""
    relaxed_share_min: float | None
    """Least lambda that was in force for a clip; None where the method has none."""
    relaxed_share_max: float | None
    """Most."""
    prefill_s: float
    draft_s: float
    verify_s: float
    scoring_s: float
    decode_s: float
    """All after the prefills: draft_s, verify_s, scoring_s and the rest."""
    output_tokens_per_s: float
    """Per second of decoding, prefill excluded."""
    video_decode_s_per_clip: float
    captioner_wait_share: float
    """Share of the captioners' time in which they waited for frames; comparing is not counted."""
    plain: PlainSummary | None
    shadow: ShadowSummary | None
    num_repeated_captions: int = 0
    """Clips whose caption is also that of a clip with other frames (of a sample of clips, where
    captions are very many)."""
    repeated_caption_share: float = 0.0
    """Of all clips."""
    num_captioner_losses: int = 0
    """Gangs that lost a rank and were started anew."""
    failures_by_kind: dict[str, int] = field(default_factory=dict)
    """Whose fault they are: poison, transient, ours."""
    num_retried: int = 0
    """Outcomes of clips (or whole videos) that had failed in an earlier run."""
    status: RunStatus = RunStatus.DONE
    """How the run ended."""
    ended_early: bool = False
    """By its failure budget: some planned videos have no row."""

    @property
    def num_clips(self) -> int:
        """Outcomes of either kind."""
        return self.num_captions + self.num_failures

    @property
    def failure_share(self) -> float:
        """Failures per outcome."""
        return _ratio(self.num_failures, self.num_clips)

    def as_json(self) -> dict[str, Any]:
        """Plain values for one line of JSON."""
        return asdict(self)


class SummaryBuilder:
    """Adds outcomes up as they are committed; memory grows with compared clips only."""

    def __init__(self) -> None:
        self._num_captions = 0
        self._failures: Counter[str] = Counter()
        self._failure_kinds: Counter[str] = Counter()
        self._num_retried = 0
        self._sums: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._histogram: list[int] = []
        self._seconds = dict.fromkeys(_SUMMED_SECONDS, 0.0)
        self._video_decode_s = self._waited_s = self._busy_s = 0.0
        self._relaxed_shares: set[float] = set()
        self._repeated = RepeatedCaptions()
        self._num_losses = 0
        self._compared: list[tuple[DecodingStats, PlainComparison]] = []
        self._shadows: Counter[str] = Counter()
        self._facts_kept: defaultdict[float | None, Counter[float]] = defaultdict(Counter)

    def add(self, outcome: CaptionRecord | Failure, is_retried: bool = False) -> None:
        """Count one outcome."""
        self._num_retried += is_retried
        if isinstance(outcome, Failure):
            self._failures[outcome.code] += 1
            self._failure_kinds[outcome.kind.value] += 1
            return
        caption = outcome.caption
        stats = caption.stats
        self._num_captions += 1
        self._repeated.add(caption.text, outcome.frames_digest)
        for name in _SUMMED:
            self._sums[name] += getattr(stats, name)
        self._histogram = add_histograms(self._histogram, stats.accepted_histogram)
        for name in _SUMMED_SECONDS:
            self._seconds[name] += getattr(stats, name)
        self._rejections.update(stats.rejected_by_cause)
        self._video_decode_s += outcome.video_decode_s
        if caption.relaxed_share is not None:
            self._note_relaxed_share(caption.relaxed_share)
        if caption.plain is not None:
            self._compared.append((stats, caption.plain))
        if caption.shadow is not None:
            self._shadows["clips"] += 1
            self._shadows["equal"] += caption.shadow.equal
            self._shadows["loose_tokens"] += stats.output_tokens
            self._shadows["exact_tokens"] += caption.shadow.output_tokens
            if caption.shadow.facts_kept is not None:
                self._facts_kept[caption.relaxed_share][caption.shadow.facts_kept] += 1

    def add_timing(self, timing: CaptionerTiming) -> None:
        """Count one call of a captioner."""
        self._waited_s += timing.waited_s
        self._busy_s += timing.busy_s
        self._num_losses += len(timing.mended)

    def build(self, elapsed_s: float) -> RunSummary:
        """The summary of what was added; ``elapsed_s`` is the run's wall clock."""
        sums: dict[str, Any] = {name: self._sums[name] for name in _SUMMED}
        mean_accepted = _ratio(self._sums["accepted_tokens"], self._sums["target_steps"])
        return RunSummary(
            elapsed_s=elapsed_s,
            num_captions=self._num_captions,
            num_failures=self._failures.total(),
            failures_by_code=dict(sorted(self._failures.items())),
            rejected_by_cause=dict(sorted(self._rejections.items())),
            accepted_histogram=tuple(self._histogram),
            mean_accepted_length=mean_accepted,
            tokens_per_target_step=mean_accepted + 1 if self._sums["target_steps"] else 0.0,
            relaxed_share_min=min(self._relaxed_shares, default=None),
            relaxed_share_max=max(self._relaxed_shares, default=None),
            output_tokens_per_s=_ratio(self._sums["output_tokens"], self._seconds["decode_s"]),
            video_decode_s_per_clip=_ratio(self._video_decode_s, self._num_captions),
            captioner_wait_share=_ratio(self._waited_s, self._waited_s + self._busy_s),
            plain=summarize_plain(self._compared) if self._compared else None,
            shadow=self._shadow_summary() if self._shadows else None,
            **sums,
            prefill_s=self._seconds["prefill_s"],
            draft_s=self._seconds["draft_s"],
            verify_s=self._seconds["verify_s"],
            scoring_s=self._seconds["scoring_s"],
            decode_s=self._seconds["decode_s"],
            num_repeated_captions=self._repeated.num_repeated,
            repeated_caption_share=self._repeated.share,
            num_captioner_losses=self._num_losses,
            failures_by_kind=dict(sorted(self._failure_kinds.items())),
            num_retried=self._num_retried,
        )

    def _note_relaxed_share(self, relaxed_share: float) -> None:
        seen = self._relaxed_shares | {relaxed_share}
        self._relaxed_shares = {min(seen), max(seen)}

    def _shadow_summary(self) -> ShadowSummary:
        equal = share(self._shadows["equal"], self._shadows["clips"])
        return ShadowSummary(
            num_clips=self._shadows["clips"],
            equal_share=equal.value,
            equal_share_low=equal.low,
            equal_share_high=equal.high,
            length_ratio=_ratio(self._shadows["loose_tokens"], self._shadows["exact_tokens"]),
            facts_kept=tuple(
                _facts_kept(relaxed_share, values)
                for relaxed_share, values in sorted(
                    self._facts_kept.items(), key=lambda item: item[0] or 0.0, reverse=True
                )
            ),
        )


_SUMMED = (
    "prompt_tokens",
    "visual_tokens",
    "output_tokens",
    "target_steps",
    "drafted_tokens",
    "accepted_tokens",
    "relaxed_tokens",
    "shifted_tokens",
    "anchor_tokens",
    "correction_tokens",
    "bonus_tokens",
)
_SUMMED_SECONDS = ("prefill_s", "draft_s", "verify_s", "scoring_s", "decode_s")


def add_histograms(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Element-wise sum; the shorter one is padded with zeros."""
    return [a + b for a, b in zip_longest(left, right, fillvalue=0)]


def summarize_plain(compared: Sequence[tuple[DecodingStats, PlainComparison]]) -> PlainSummary:
    """Compare rates over clips that were decoded both ways (at least one)."""
    ratio = bootstrap(
        [
            (stats.output_tokens, stats.decode_s, plain.output_tokens, plain.decode_s)
            for stats, plain in compared
        ],
        speed_up,
    )
    return PlainSummary(
        num_clips=len(compared),
        equal_share=sum(plain.equal for _, plain in compared) / len(compared),
        speed_up=ratio.value,
        speed_up_low=ratio.low,
        speed_up_high=ratio.high,
    )


def _facts_kept(relaxed_share: float | None, values: Counter[float]) -> FactsKept:
    num_clips = values.total()
    mean = sum(value * count for value, count in values.items()) / num_clips
    low, high = interval(values)
    return FactsKept(relaxed_share, num_clips, mean, low, high)


def _ratio(over: float, under: float) -> float:
    return over / under if under else 0.0

"""What a plan will take, from a sample of its videos and the last run's own figures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.dataset.catalog import PlannedVideo
from pipeline.dataset.layout import Layout
from pipeline.dataset.plan import PlanCounts
from pipeline.dataset.plan_uris import row_uri, sibling_layouts
from pipeline.dataset.summary import RunStatus
from pipeline.progress import format_duration
from pipeline.statistics import Estimate, bootstrap_mean, share
from pipeline.storage import NotFoundError, Storage

SAMPLE_SIZE = 32
"""Videos that are opened for a forecast: some seconds, and a mean to about a third."""
_MAX_RUNS = 30
_MAX_SHOWN = 10
_SEED = 0  # the same plan gives the same sample


@dataclass(frozen=True, slots=True)
class ProbedVideo:
    """One video of the sample: its length in s and its clips that are left; or why it will fail."""

    uri: str
    duration_s: float
    num_clips: int
    code: str | None = None


@dataclass(frozen=True, slots=True)
class RunRate:
    """What a finished run did; its wall clock includes planning and loading the models."""

    run_uri: str
    num_clips: int
    elapsed_s: float

    @property
    def clips_per_s(self) -> float:
        """Outcomes of either kind by the wall clock."""
        return self.num_clips / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan with what it will take: expected values, from the sample to the whole plan."""

    counts: PlanCounts
    sample: tuple[ProbedVideo, ...]
    rate: RunRate | None
    num_gpus: float
    cost_per_gpu_hour: float | None

    @property
    def duration_s(self) -> Estimate | None:
        """Mean length of the sample's good videos, s; None if there is none."""
        durations_s = [each.duration_s for each in self.sample if each.code is None]
        return bootstrap_mean(durations_s) if durations_s else None

    @property
    def failing(self) -> Estimate | None:
        """Share of videos that can't be opened; None without a sample."""
        num_failing = sum(each.code is not None for each in self.sample)
        return share(num_failing, len(self.sample)) if self.sample else None

    @property
    def num_clips(self) -> float | None:
        """Outcomes to come, a failing video being one; None without a sample."""
        if not self.sample:
            return None
        num_clips = sum(each.num_clips for each in self.sample)
        return self.counts.num_videos * num_clips / len(self.sample)

    @property
    def hours(self) -> float | None:
        """At the last run's rate; None without one."""
        if self.num_clips is None or self.rate is None:
            return None
        return self.num_clips / self.rate.clips_per_s / 3600

    @property
    def cost(self) -> float | None:
        """Of all GPUs of the captioners for these hours, in the currency of the price."""
        if self.hours is None or self.cost_per_gpu_hour is None:
            return None
        return self.hours * self.num_gpus * self.cost_per_gpu_hour

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not known is null."""
        return self.counts.as_json() | {
            "num_probed": len(self.sample),
            "mean_duration_s": self.duration_s.value if self.duration_s else None,
            "expected_clips": self.num_clips,
            "expected_hours": self.hours,
            "expected_cost": self.cost,
            "rate_from": self.rate.run_uri if self.rate else None,
            "clips_per_s": self.rate.clips_per_s if self.rate else None,
            "expected_failures": {
                row_uri(each.uri): each.code for each in self.sample if each.code is not None
            },
        }

    def lines(self) -> Iterator[str]:
        """For people; brackets are 95 % intervals over the sample."""
        yield f"  {self.counts}"
        if not self.sample:
            return
        yield f"  {len(self.sample)} of them were opened, chosen at random:"
        if self.duration_s:
            total = format_duration(self.duration_s.value * self.counts.num_videos)
            yield f"  mean length {self.duration_s:.1f} s, so about {total} if all were good"
        yield from self._failing_lines()
        yield from self._hours_lines()

    def _failing_lines(self) -> Iterator[str]:
        bad = [each for each in self.sample if each.code is not None]
        if not bad:
            yield f"  all of these can be opened (others can't: {self.failing:.0%})"
            return
        yield f"  {len(bad)} of these can't be opened, so will fail ({self.failing:.0%}):"
        for each in bad[:_MAX_SHOWN]:
            yield f"    {each.code}: {row_uri(each.uri)!r}"
        if len(bad) > _MAX_SHOWN:
            yield f"    and {len(bad) - _MAX_SHOWN} more"

    def _hours_lines(self) -> Iterator[str]:
        if self.rate is None or self.hours is None:
            yield "  no run below this output has finished yet, so hours can't be told"
            return
        yield (
            f"  about {self.num_clips:.0f} clips, {format_duration(self.hours * 3600)} at the "
            f"{self.rate.clips_per_s:.2f} clips/s of {self.rate.run_uri} ({self.rate.num_clips} "
            "clips, loading included)"
        )
        if self.cost is not None:
            yield f"  about {self.cost:.2f} for the captioners' GPUs ({self.num_gpus:g})"


def sample_of(plan: Iterable[PlannedVideo], size: int = SAMPLE_SIZE) -> list[PlannedVideo]:
    """Videos drawn evenly from a plan of any length, which is iterated to its end."""
    chance = random.Random(_SEED)
    kept: list[PlannedVideo] = []
    for index, planned in enumerate(plan):
        if index < size:
            kept.append(planned)
        elif (place := chance.randrange(index + 1)) < size:
            kept[place] = planned
    return kept


def last_rate(storage: Storage, layout: Layout) -> RunRate | None:
    """The newest finished run that captioned something: of this data set, else of one beside it.

    New run ids sort by time; so does what is taken for the newest. Raises StorageError.
    """
    own = next(_rates(storage, layout), None)
    if own is not None:
        return own
    beside = [next(_rates(storage, each), None) for each in sibling_layouts(storage, layout)]
    known = [rate for rate in beside if rate is not None]
    return max(known, key=lambda rate: rate.run_uri.rpartition("/")[2], default=None)


def _rates(storage: Storage, layout: Layout) -> Iterator[RunRate]:
    try:
        runs = sorted(storage.folders(layout.runs_uri), reverse=True)
    except NotFoundError:
        return
    for run_uri in islice(runs, _MAX_RUNS):
        try:
            data = storage.read_bytes(f"{run_uri}/metrics.json")
        except NotFoundError:
            continue  # it was killed, or goes on
        metrics = json.loads(data)
        if metrics.get("status") == RunStatus.FAILED or metrics.get("ended_early"):
            continue  # failures come faster than captions
        num_clips = metrics["num_captions"] + metrics["num_failures"]
        if num_clips:
            yield RunRate(run_uri, num_clips, metrics["elapsed_s"])

"""One run over a corpus: plan it, commit its outcomes as they come, summarise it.

What captions is a function: ``pipeline.local_runner.caption_locally`` (the reference: one process,
no Ray) or ``actors.corpus_run.caption_on_ray``; both give the same rows. Nothing here needs torch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.config import RunConfig
from pipeline.dataset.card import write_card
from pipeline.dataset.catalog import PlannedVideo
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout
from pipeline.dataset.parts import list_parts
from pipeline.dataset.plan import Plan
from pipeline.dataset.plan_forecast import Forecast, ProbedVideo, last_rate, sample_of
from pipeline.dataset.plan_parts import WrittenPlan, write_plan
from pipeline.dataset.run_folder import write_end, write_start
from pipeline.dataset.schema import RunLabels, caption_row, failure_row
from pipeline.dataset.standing import read_standing
from pipeline.dataset.summary import RunStatus, RunSummary, SummaryBuilder
from pipeline.failure_budget import BudgetWatch, complaint
from pipeline.failure_kinds import FailureKind
from pipeline.progress import Progress
from pipeline.records import (
    CaptionerTiming,
    Failure,
    Outcome,
    VideoObject,
    whole_video_clip_id,
)
from pipeline.stages.decode import BAD_VIDEO_ERRORS
from pipeline.storage import Opener, Storage, StorageError, storage_for
from pipeline.video.guard import GuardedDecoder

MAX_PROBING_S = 60.0

Runner = Callable[[RunConfig, WrittenPlan], Iterable[Outcome | CaptionerTiming]]
"""Captions the videos of a plan; outcomes come in any order, and may come twice."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A config whose model revisions are pinned, the digest of it, and this run's name."""

    config: RunConfig
    config_digest: str
    run_id: str
    resume: bool = True
    retry: frozenset[FailureKind] = frozenset()
    """Kinds of failures of earlier runs that are tried again."""

    @property
    def layout(self) -> Layout:
        """Where the data set of this digest lies."""
        return Layout.of(self.config.output.uri, self.config_digest)


def plan_run(request: RunRequest) -> Plan:
    """The videos that the run would caption; writes nothing.

    Raises StorageError; iterating it StorageError, ManifestError, NoVideosError.
    """
    config, layout = request.config, request.layout
    storage = storage_for(layout.uri, config.storage)
    standing = read_standing(storage, layout, list_parts(storage, layout), request.retry)
    return Plan.of(config, standing.done, storage, layout, standing.retried_video_ids)


def forecast_run(request: RunRequest, cost_per_gpu_hour: float | None = None) -> Forecast:
    """What the run would caption and what it would take, from some of its videos; writes nothing.

    The sample's videos are opened in the killable child process, for a minute at most. Raises what
    planning does, and StorageError if the store doesn't answer.
    """
    config, layout = request.config, request.layout
    storage = storage_for(layout.uri, config.storage)
    plan = plan_run(request)
    sample = sample_of(plan)
    cluster = config.cluster
    return Forecast(
        counts=plan.counts,
        sample=tuple(_probed(config, sample)),
        rate=last_rate(storage, layout),
        num_gpus=cluster.num_captioners * cluster.captioner_gpus,
        cost_per_gpu_hour=cost_per_gpu_hour,
    )


def run_corpus(
    request: RunRequest, runner: Runner, print_line: Callable[[str], None]
) -> RunSummary:
    """Caption what is not done yet and commit it. Nothing to do is a run too.

    What was committed stays, whatever is raised: a run by the same config goes on from there. The
    run's figures say how it ended, also then. A run whose failure budget is surely spent ends early
    and is over budget. The summary's ``elapsed_s`` covers all of it: reading what is done,
    planning, loading the models and captioning, until the last commit.
    Raises CommitError, StorageError, ManifestError, NoVideosError, and what the runner raises.
    """
    config, layout = request.config, request.layout
    started_s = time.monotonic()
    labels = RunLabels.of(config, request.config_digest, request.run_id)
    summary = SummaryBuilder()
    storage = storage_for(layout.uri, config.storage)
    write_start(storage, layout, request.run_id, config)
    status, ended_early = RunStatus.FAILED, False

    def figures() -> RunSummary:
        return replace(
            summary.build(elapsed_s=time.monotonic() - started_s),
            status=status,
            ended_early=ended_early,
        )

    try:
        ended_early = _caption_todo(request, labels, runner, summary, storage, print_line)
        status = RunStatus.DONE
    except KeyboardInterrupt:
        status = RunStatus.INTERRUPTED
        raise
    finally:
        if status is not RunStatus.DONE:
            with suppress(StorageError):  # perhaps what ended the run
                write_end(storage, layout, request.run_id, figures())
    result = figures()
    if complaint(result, config.failures):
        result = replace(result, status=RunStatus.OVER_BUDGET)
    write_end(storage, layout, request.run_id, result)
    write_card(storage, layout)
    return result


def _caption_todo(
    request: RunRequest,
    labels: RunLabels,
    runner: Runner,
    summary: SummaryBuilder,
    storage: Storage,
    print_line: Callable[[str], None],
) -> bool:
    """Plan, caption, commit; whether the failure budget ended it early. What is made is committed,
    also before an exception goes on."""
    config, layout = request.config, request.layout
    watch = BudgetWatch(config.failures)
    ended_early = False
    with Committer(
        storage, layout, config.output, request.run_id, request.resume, request.retry
    ) as committer:
        print_line(f"planning: {config.input.uri} less what is in {layout.uri}")
        retried = committer.standing.retried_video_ids
        todo = Plan.of(config, committer.done, storage, layout, retried)
        plan = write_plan(storage, layout, request.run_id, todo)
        print_line(
            f"{plan.num_videos} videos to caption into {layout.uri} ({plan.counts})"
            if plan.num_videos
            else f"nothing to do: every video of {config.input.uri} is in {layout.uri} "
            f"({plan.counts})"
        )
        if plan.num_videos:
            with Progress(plan.num_videos, print_line) as progress:
                for outcome in runner(config, plan):
                    if isinstance(outcome, CaptionerTiming):
                        summary.add_timing(outcome)
                        for incident in outcome.mended:
                            print_line(incident)
                        continue
                    earlier = _earlier_attempts(outcome, committer.standing.last_attempts)
                    if earlier:
                        outcome = replace(outcome, attempt=earlier + outcome.attempt)
                    if not _commit(committer, outcome, labels):
                        continue
                    summary.add(outcome, is_retried=earlier > 0)
                    video_id = _video_of(outcome).video_id
                    progress.add(outcome, plan.num_done_clips.get(video_id, 0))
                    watch.add(outcome)
                    if watch.is_spent and progress.count().num_videos_done < plan.num_videos:
                        ended_early = True
                        break  # the runner's generator ends with the loop
    if num_duplicates := committer.counts.duplicates:
        print_line(
            f"{num_duplicates} outcomes came twice (work that was run again) and were dropped"
        )
    return ended_early


def new_run_id() -> str:
    """A name that sorts by time and that no other job has: ``20260131-235959-utc-1f9a03``."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-utc-{secrets.token_hex(3)}"


def _probed(config: RunConfig, sample: Iterable[PlannedVideo]) -> Iterator[ProbedVideo]:
    """Probe and cut videos until the time is up; one that is begun is finished."""
    deadline_s = time.monotonic() + MAX_PROBING_S
    with GuardedDecoder(config.video) as decoder:
        for planned in sample:
            if time.monotonic() > deadline_s:
                return
            uri = planned.video.uri
            try:
                plan = decoder.plan(Opener(uri, planned.video.etag, config.storage))
            except BAD_VIDEO_ERRORS as error:
                yield ProbedVideo(uri, 0.0, 1, str(error.code))
                continue
            num_clips = len(plan.spans) - len(planned.done_clip_ids)
            yield ProbedVideo(uri, plan.info.duration_s, num_clips)


def _earlier_attempts(outcome: Outcome, last_attempts: Mapping[str, int]) -> int:
    """Of the clip, or of its video when that had failed as a whole, in the runs before."""
    if not last_attempts:
        return 0
    whole = last_attempts.get(whole_video_clip_id(_video_of(outcome)), 0)
    return last_attempts.get(outcome.clip_id, whole)


def _video_of(outcome: Outcome) -> VideoObject:
    return outcome.video if isinstance(outcome, Failure) else outcome.spec.video


def _commit(committer: Committer, outcome: Outcome, labels: RunLabels) -> bool:
    """Hand a row to the committer; False if the clip has one already."""
    now = datetime.now(UTC)
    if isinstance(outcome, Failure):
        return committer.add_failure(failure_row(outcome, labels, now))
    return committer.add_caption(caption_row(outcome, labels, now))

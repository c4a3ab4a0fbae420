"""One run over a corpus: plan it, commit its outcomes as they come, summarise it.

What captions is a function: ``pipeline.local_runner.caption_locally`` (the reference: one process,
no Ray) or ``actors.corpus_run.caption_on_ray``; both give the same rows. Nothing here needs torch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo, plan_videos
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout
from pipeline.dataset.parts import list_parts, read_done
from pipeline.dataset.run_folder import write_end, write_start
from pipeline.dataset.schema import RunLabels, caption_row, failure_row
from pipeline.dataset.summary import RunSummary, SummaryBuilder
from pipeline.progress import Progress
from pipeline.records import CaptionerTiming, Failure, Outcome, VideoObject
from pipeline.storage import storage_for

Runner = Callable[[RunConfig, Sequence[PlannedVideo]], Iterable[Outcome | CaptionerTiming]]
"""Captions planned videos; outcomes come in any order, and may come twice."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A config whose model revisions are pinned, the digest of it, and this run's name."""

    config: RunConfig
    config_digest: str
    run_id: str
    resume: bool = True

    @property
    def layout(self) -> Layout:
        """Where the data set of this digest lies."""
        return Layout.of(self.config.output.uri, self.config_digest)


def plan_run(request: RunRequest) -> Iterator[PlannedVideo]:
    """The videos that the run would caption; writes nothing.

    Raises StorageError, ManifestError, NoVideosError.
    """
    config, layout = request.config, request.layout
    storage = storage_for(layout.uri, config.storage)
    done = read_done(storage, layout, list_parts(storage, layout))
    return plan_videos(config, done)


def run_corpus(
    request: RunRequest, runner: Runner, print_line: Callable[[str], None]
) -> RunSummary:
    """Caption what is not done yet and commit it. Nothing to do is a run too.

    What was committed stays, whatever is raised: a run by the same config goes on from there.
    The summary's ``elapsed_s`` covers all of it: reading what is done, planning, loading the models
    and captioning, until the last commit.
    Raises CommitError, StorageError, ManifestError, NoVideosError, and what the runner raises.
    """
    config, layout = request.config, request.layout
    started_s = time.monotonic()
    labels = RunLabels.of(config, request.config_digest, request.run_id)
    summary = SummaryBuilder()
    storage = storage_for(layout.uri, config.storage)
    write_start(storage, layout, request.run_id, config)
    with Committer(storage, layout, config.output, request.run_id, request.resume) as committer:
        videos = list(plan_videos(config, committer.done))
        print_line(
            f"{len(videos)} videos to caption into {layout.uri}"
            if videos
            else f"nothing to do: every video of {config.input.uri} is in {layout.uri}"
        )
        progress = Progress(len(videos), print_line)
        done_before = {
            planned.video.video_id: len(planned.done_clip_ids)
            for planned in videos
            if planned.done_clip_ids
        }
        if videos:
            with progress:
                for outcome in runner(config, videos):
                    if isinstance(outcome, CaptionerTiming):
                        summary.add_timing(outcome)
                        for incident in outcome.mended:
                            print_line(incident)
                    elif _commit(committer, outcome, labels):
                        summary.add(outcome)
                        progress.add(outcome, done_before.get(_video_of(outcome).video_id, 0))
    if num_duplicates := committer.counts.duplicates:
        print_line(
            f"{num_duplicates} outcomes came twice (work that was run again) and were dropped"
        )
    result = summary.build(elapsed_s=time.monotonic() - started_s)
    write_end(storage, layout, request.run_id, result)
    return result


def new_run_id() -> str:
    """A name that sorts by time and that no other job has: ``20260131-235959-utc-1f9a03``."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-utc-{secrets.token_hex(3)}"


def _video_of(outcome: Outcome) -> VideoObject:
    return outcome.video if isinstance(outcome, Failure) else outcome.spec.video


def _commit(committer: Committer, outcome: Outcome, labels: RunLabels) -> bool:
    """Hand a row to the committer; False if the clip has one already."""
    now = datetime.now(UTC)
    if isinstance(outcome, Failure):
        return committer.add_failure(failure_row(outcome, labels, now))
    return committer.add_caption(caption_row(outcome, labels, now))

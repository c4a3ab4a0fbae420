"""Any nights in a row, with failures, interruptions and retries, leave a data set that is whole.

What stands is what the last attempt at each clip gave; verification, the done-set, snapshots and
the card count it alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from make_records import caption_record

from pipeline.config import (
    FailureBudget,
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    SpeculationMethod,
)
from pipeline.dataset.card_facts import card_facts
from pipeline.dataset.catalog import list_videos
from pipeline.dataset.compact import compact
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows, list_parts
from pipeline.dataset.plan_parts import WrittenPlan
from pipeline.dataset.snapshot import snapshot_layout
from pipeline.dataset.standing import part_uris, read_failures, read_standing
from pipeline.dataset.verify import verify
from pipeline.failure_kinds import FailureKind
from pipeline.records import ClipSpec, Failure, Outcome, Stage
from pipeline.run import RunRequest, run_corpus
from pipeline.storage import storage_for

DIGEST = "0123456789abcdef"
NUM_VIDEOS = 3
CODES = ("corrupt", "timeout", "captioner_crash")
"""One of each kind."""
CAPTIONED, STOPPED = "captioned", "stopped"


@dataclass(frozen=True)
class Night:
    """What each attempt of a night meets: of videos (``opened``) and of their clips."""

    retry: frozenset[FailureKind]
    opened: list[str]
    clips: list[str]
    attempts: int

    def run(self, config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome]:
        opened, clips = iter(self.opened), iter(self.clips)
        for planned in plan:
            num_clips = 1 + int(planned.video.uri[-5])
            if (code := next(opened, CAPTIONED)) in CODES:
                yield Failure(planned.video, None, Stage.PROBE, code, "", self.attempts)
                continue
            for index in range(num_clips):
                spec = ClipSpec(planned.video, index, num_clips, index * 4.0, index * 4.0 + 4.0)
                if spec.clip_id in planned.done_clip_ids:
                    continue
                what = next(clips, CAPTIONED)
                if what == STOPPED:
                    raise KeyboardInterrupt
                if what in CODES:
                    yield Failure(spec.video, spec, Stage.DECODE, what, "", self.attempts)
                else:
                    yield caption_record(spec)


fates = st.lists(st.sampled_from([CAPTIONED, CAPTIONED, *CODES]), max_size=NUM_VIDEOS)
clip_fates = st.lists(st.sampled_from([CAPTIONED, CAPTIONED, *CODES, STOPPED]), max_size=6)
nights = st.builds(
    Night, st.frozensets(st.sampled_from(FailureKind)), fates, clip_fates, st.integers(1, 3)
)


def run_config(folder: Path) -> RunConfig:
    return RunConfig(
        input=InputConfig(uri=str(folder / "in")),
        output=OutputConfig(uri=str(folder / "out"), rows_per_part=2),
        models=ModelsConfig(target=ModelConfig(name="scripted")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
        failures=FailureBudget(max_share=1.0),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(nights, min_size=1, max_size=5))
def test_nights_with_retries(some_nights: list[Night]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number in range(NUM_VIDEOS):
            (folder / "in" / f"{number}.mp4").write_bytes(b"x")
        config = run_config(folder)
        for number, night in enumerate(some_nights):
            request = RunRequest(config, DIGEST, f"night-{number}", retry=night.retry)
            with suppress(KeyboardInterrupt):
                run_corpus(request, night.run, lambda line: None)
        calm = Night(frozenset(), [], [], 1)
        run_corpus(RunRequest(config, DIGEST, "night-x"), calm.run, lambda line: None)
        check(config, Layout.of(config.output.uri, DIGEST))


def check(config: RunConfig, layout: Layout) -> None:
    storage = storage_for(layout.uri, config.storage)
    videos = list(list_videos(config.input, config.storage))
    parts = list_parts(storage, layout)
    captions = list(iter_rows(storage, layout, Table.CAPTIONS))
    failures = list(iter_rows(storage, layout, Table.FAILURES))
    standing = expected_standing(captions, failures)

    report = verify(storage, layout.uri, videos)
    assert report.is_whole, report.problems
    assert report.num_failures - report.num_superseded == len(standing)

    found = read_failures(storage, part_uris(layout, parts))
    assert {(each.clip_id, each.attempt) for each in found.standing.values()} == standing

    everything = read_standing(storage, layout, parts, frozenset())
    assert all(everything.done.has_video(video.video_id) for video in videos)

    facts = card_facts(storage, layout)
    assert facts.num_rows == {Table.CAPTIONS: len(captions), Table.FAILURES: len(standing)}
    assert facts.num_superseded == len(failures) - len(standing)

    made = compact(storage, layout.uri)
    assert made is not None
    snapshot = snapshot_layout(layout, made.snapshot.name)
    kept = {(r["clip_id"], r["attempt"]) for r in iter_rows(storage, snapshot, Table.FAILURES)}
    assert kept == standing
    report = verify(storage, snapshot.uri, videos)
    assert report.is_whole, report.problems


def expected_standing(captions: list[dict], failures: list[dict]) -> set[tuple[str, int]]:
    """The rule of standing.py, word by word."""
    captioned = {row["clip_id"] for row in captions}
    standing = set()
    for row in failures:
        is_older = any(
            other["clip_id"] == row["clip_id"] and other["attempt"] > row["attempt"]
            for other in failures
        )
        clips = [
            other
            for other in [*captions, *failures]
            if other["video_id"] == row["video_id"] and other["num_clips"] is not None
        ]
        is_complete = bool(clips) and len({c["clip_id"] for c in clips}) == clips[0]["num_clips"]
        is_whole = row["num_clips"] is None
        if is_older or row["clip_id"] in captioned or (is_whole and is_complete):
            continue
        standing.add((row["clip_id"], row["attempt"]))
    return standing

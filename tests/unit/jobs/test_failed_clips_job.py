"""The captioning job on bad nights: what it tries again, when it gives up, what it leaves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from make_records import caption_record

from jobs import caption_corpus, verify_corpus
from pipeline.config import RunConfig, StorageConfig
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows
from pipeline.dataset.plan_parts import WrittenPlan
from pipeline.failure_kinds import FailureKind
from pipeline.records import CaptionRecord, ClipSpec, Failure, Outcome, Stage
from pipeline.settings import JobOptions
from pipeline.storage import storage_for

Runner = Callable[[RunConfig, WrittenPlan], Iterator[Outcome]]
CODES = {"0": "corrupt", "1": "timeout", "2": "captioner_crash"}
"""Of the videos 0, 1 and 2: poison, transient, ours."""


def caption(video: Any) -> CaptionRecord:
    return caption_record(ClipSpec(video, 0, 1, 0.0, 4.0))


def caption_all(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome]:
    return (caption(planned.video) for planned in plan)


def fail_three(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome]:
    """One of each kind, at different places; the others are captioned."""
    for planned in plan:
        video = planned.video
        code = CODES.get(Path(video.uri).stem)
        spec = None if code == "timeout" else ClipSpec(video, 0, 1, 0.0, 4.0)
        yield Failure(video, spec, Stage.DECODE, code, "bad", 1) if code else caption(video)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the job over the files that are in ``in`` with a runner of the test's."""
    monkeypatch.setattr(caption_corpus, "pin_revision", lambda model, storage: model)
    write_videos(tmp_path, 5)

    def run(runner: Runner, *arguments: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(caption_corpus, "_runner", lambda options: runner)
            return caption_corpus.main(
                [
                    *("--recipe", "reference", "--input", str(tmp_path / "in")),
                    *("--output", str(tmp_path / "out"), *arguments),
                ]
            )

    return run


def write_videos(tmp_path: Path, number: int) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    for each in range(number):
        (tmp_path / "in" / f"{each}.mp4").write_bytes(b"x")


def dataset(tmp_path: Path) -> str:
    (folder,) = (tmp_path / "out").iterdir()
    return str(folder)


def attempts(tmp_path: Path, table: Table) -> dict[str, list[int]]:
    """By the video's name."""
    layout = Layout(dataset(tmp_path))
    found: dict[str, list[int]] = {}
    for row in iter_rows(storage_for(layout.uri, StorageConfig()), layout, table):
        found.setdefault(Path(row["source_uri"]).stem, []).append(row["attempt"])
    return {name: sorted(numbers) for name, numbers in found.items()}


def metrics(tmp_path: Path, run_id: str) -> dict[str, Any]:
    return dict(json.loads(Path(dataset(tmp_path), "runs", run_id, "metrics.json").read_text()))


def is_whole(tmp_path: Path) -> bool:
    return verify_corpus.main([dataset(tmp_path), "--input", str(tmp_path / "in")]) == 0


LENIENT = ("--failures.max-share", "1.0")


@pytest.mark.parametrize(
    ("flags", "retried"),
    [
        ((), ""),
        (("--retry-failed",), "12"),
        (("--retry-failed", "transient"), "1"),
        (("--retry-failed", "ours"), "2"),
        (("--retry-failed", "poison"), "0"),
        (("--retry-failed=all",), "012"),
    ],
)
def test_failures_of_the_named_kinds_are_captioned_again(
    job: Callable[..., int], tmp_path: Path, flags: tuple[str, ...], retried: str
) -> None:
    """Once mended they have a caption, of the next attempt; the failure's row stays as it was."""
    assert job(fail_three, *LENIENT) == 0
    assert job(caption_all, "--run-id", "again", *LENIENT, *flags) == 0
    captions = {"3": [1], "4": [1]} | {name: [2] for name in retried}
    assert attempts(tmp_path, Table.CAPTIONS) == captions
    assert attempts(tmp_path, Table.FAILURES) == {"0": [1], "1": [1], "2": [1]}
    assert metrics(tmp_path, "again")["num_retried"] == len(retried)
    assert is_whole(tmp_path)
    assert job(caption_all, "--run-id", "third", *LENIENT, *flags) == 0
    assert metrics(tmp_path, "third")["num_captions"] == 0, "captioned twice"


def test_a_clip_that_fails_again_counts_its_attempts(
    job: Callable[..., int], tmp_path: Path
) -> None:
    for _ in range(3):
        assert job(fail_three, *LENIENT, "--retry-failed", "all") == 0
    assert attempts(tmp_path, Table.FAILURES) == {name: [1, 2, 3] for name in CODES}
    assert is_whole(tmp_path)
    assert "| failures | 3 (" in Path(dataset(tmp_path), "README.md").read_text()


def test_a_dry_run_counts_what_would_be_tried_again(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(fail_three, *LENIENT) == 0
    capsys.readouterr()
    assert job(caption_all, "--dry-run", "--retry-failed", "--no-preflight") == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["num_by_reason"]["retried"] == 2
    assert "2 retried" in out


def test_every_kind_can_be_named() -> None:
    """The flag's words are the kinds."""
    (words, _) = get_args(JobOptions.model_fields["retry_failed"].annotation)
    assert set(get_args(words)) == {*map(str, FailureKind), "all"}


def test_a_failure_row_has_all_that_a_replay_needs(job: Callable[..., int], tmp_path: Path) -> None:
    assert job(fail_three, *LENIENT, "--run-id", "night") == 0
    layout = Layout(dataset(tmp_path))
    rows = {
        row["code"]: row
        for row in iter_rows(storage_for(layout.uri, StorageConfig()), layout, Table.FAILURES)
    }
    row = rows["corrupt"]
    assert row["source_uri"] == str(tmp_path / "in" / "0.mp4")
    assert row["source_etag"]
    assert (row["source_size"], row["start_s"], row["end_s"]) == (1, 0.0, 4.0)
    assert (row["stage"], row["kind"], row["message"]) == ("decode", "poison", "bad")
    assert (row["attempt"], row["run_id"]) == (1, "night")
    assert row["config_digest"] == layout.uri.rpartition("/")[2]
    assert (rows["timeout"]["kind"], rows["timeout"]["start_s"]) == ("transient", None)


def test_a_night_that_is_surely_bad_ends_early(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hundred refusals of a thousand videos are enough; what was done is kept and goes on."""
    write_videos(tmp_path, 300)
    closed = []

    def refuse_all(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome]:
        try:
            for planned in plan:
                yield Failure(planned.video, None, Stage.READ, "access_denied", "no", 1)
        finally:
            closed.append(True)

    assert job(refuse_all, "--run-id", "bad") == 3
    captured = capsys.readouterr()
    assert "100 of 100 clips failed" in captured.err
    assert "the run was ended early" in captured.err
    assert "100 access_denied (transient)" in captured.err
    assert closed == [True], "the runner goes on"
    figures = metrics(tmp_path, "bad")
    assert (figures["status"], figures["ended_early"]) == ("over_budget", True)
    assert figures["failures_by_kind"] == {"transient": 100}
    assert json.loads(captured.out.splitlines()[-1])["num_failures"] == 100
    assert verify_corpus.main([dataset(tmp_path)]) == 0, "its plan did not come to its end"

    assert job(caption_all, "--retry-failed", "--run-id", "good") == 0
    assert len(attempts(tmp_path, Table.CAPTIONS)) == 300
    assert metrics(tmp_path, "good")["status"] == "done"
    assert is_whole(tmp_path)


def test_a_run_that_goes_to_its_end_over_budget_says_so(
    job: Callable[..., int], tmp_path: Path
) -> None:
    assert job(fail_three, "--run-id", "night") == 3
    figures = metrics(tmp_path, "night")
    assert (figures["status"], figures["ended_early"]) == ("over_budget", False)
    assert is_whole(tmp_path)


def test_one_failure_too_many_ends_the_run(job: Callable[..., int], tmp_path: Path) -> None:
    assert job(fail_three, "--failures.max-count", "1", "--run-id", "night") == 3
    assert metrics(tmp_path, "night")["num_failures"] == 2
    lenient = ("--failures.max-count", "1", "--no-failures.end-early", "--retry-failed=all")
    assert job(fail_three, *lenient, "--run-id", "next") == 3
    assert metrics(tmp_path, "next")["num_failures"] == 3


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed")]
)
def test_a_run_that_breaks_off_leaves_its_figures(
    job: Callable[..., int], tmp_path: Path, error: type[BaseException], status: str
) -> None:
    """So that the morning's question, how far did it come, has an answer."""

    def break_off(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome]:
        yield caption(next(iter(plan)).video)
        if error is KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)
        raise error("a bug")

    arguments = ("--run-id", "night")
    if error is KeyboardInterrupt:
        assert job(break_off, *arguments) == 1
    else:
        with pytest.raises(error):
            job(break_off, *arguments)
    figures = metrics(tmp_path, "night")
    assert (figures["status"], figures["num_captions"]) == (status, 1)
    assert verify_corpus.main([dataset(tmp_path)]) == 0, "its plan did not come to its end"
    assert job(caption_all) == 0
    assert is_whole(tmp_path)

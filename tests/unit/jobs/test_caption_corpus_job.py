"""The job around a runner that captions nothing for real: signals, exit codes, its last line."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow.dataset
import pytest
import ray
from make_records import caption_record

from jobs import caption_corpus
from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo
from pipeline.dataset.plan_parts import WrittenPlan
from pipeline.records import CaptionRecord, ClipSpec, Failure, Stage
from pipeline.run import new_run_id

NUM_VIDEOS = 4
Runner = Callable[[RunConfig, WrittenPlan], Iterator[CaptionRecord | Failure]]


def caption(planned: PlannedVideo) -> CaptionRecord:
    return caption_record(ClipSpec(planned.video, 0, 1, 0.0, 4.0))


def caption_all(config: RunConfig, plan: WrittenPlan) -> Iterator[CaptionRecord]:
    return map(caption, plan)


def caption_all_twice(config: RunConfig, plan: WrittenPlan) -> Iterator[CaptionRecord]:
    return map(caption, [*plan, *plan])


def fail_all(config: RunConfig, plan: WrittenPlan) -> Iterator[Failure]:
    return (Failure(each.video, None, Stage.PROBE, "corrupt", "bad", 1) for each in plan)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the job on four files with a runner of the test's."""
    monkeypatch.setattr(caption_corpus, "pin_revision", lambda model, storage: model)
    (tmp_path / "in").mkdir()
    for number in range(NUM_VIDEOS):
        (tmp_path / "in" / f"{number}.mp4").write_bytes(b"x")

    def run(runner: Runner | None, *arguments: str) -> int:
        with monkeypatch.context() as patch:
            if runner is not None:
                patch.setattr(caption_corpus, "_runner", lambda options: runner)
            return caption_corpus.main(
                [
                    *("--recipe", "reference", "--input", str(tmp_path / "in")),
                    *("--output", str(tmp_path / "out"), *arguments),
                ]
            )

    return run


def num_captions(tmp_path: Path) -> int:
    (folder,) = (tmp_path / "out").iterdir()
    captions = folder / "captions"
    return pyarrow.dataset.dataset(captions).count_rows() if captions.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_what_is_captioned(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """A preempted machine loses no caption that was made; the next run makes the others."""
    handlers = [signal.getsignal(each) for each in caption_corpus.STOP_SIGNALS]

    def interrupted(config: RunConfig, plan: WrittenPlan) -> Iterator[CaptionRecord]:
        for planned in islice(plan, 3):
            yield caption(planned)
        os.kill(os.getpid(), number)
        pytest.fail("went on after the signal")

    assert job(interrupted) == 1
    assert capsys.readouterr().err == (
        "interrupted; what was committed stays, run again to go on\n"
    )
    assert num_captions(tmp_path) == 3
    assert [signal.getsignal(each) for each in caption_corpus.STOP_SIGNALS] == handlers
    assert job(caption_all) == 0
    assert num_captions(tmp_path) == NUM_VIDEOS


def test_a_second_signal_does_not_stop_the_commit(
    job: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Impatience must not cost captions."""

    def interrupted(config: RunConfig, plan: WrittenPlan) -> Iterator[CaptionRecord]:
        yield caption(next(iter(plan)))
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    assert job(interrupted) == 1
    assert num_captions(tmp_path) == 1


def test_json_is_the_last_line_of_merged_output(
    job: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray's job logs hold stdout and stderr in one; the judgement comes before the JSON."""
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    assert job(fail_all) == 3
    *_, judgement, last = capsys.readouterr().out.splitlines()
    assert f"{NUM_VIDEOS} of {NUM_VIDEOS} clips failed" in judgement
    summary = json.loads(last)
    assert summary["num_failures"] == NUM_VIDEOS
    assert summary["elapsed_s"] > 0


def test_work_that_came_twice_is_told(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A count of restarted workers' repeated work; no line if there was none."""
    assert job(caption_all_twice) == 0
    assert f"{NUM_VIDEOS} outcomes came twice" in capsys.readouterr().out
    assert job(caption_all, "--models.target.dtype", "bfloat16") == 0  # another data set
    assert "came twice" not in capsys.readouterr().out


def test_ray_is_not_started_for_nothing(
    job: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most nights of a finished corpus have nothing to do."""
    assert job(caption_all) == 0
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    assert job(None) == 0
    assert "nothing to do: every video" in capsys.readouterr().out


def test_a_dead_cluster_address_is_one_line(
    job: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once if nobody listens there, where Ray would try on; and what ray.init raises."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert job(None, "--address", address) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: no Ray cluster answers at {address}: ")
    assert error.count("\n") == 1

    def refuse(**options: object) -> None:
        raise ConnectionError("Failed to connect to GCS")

    monkeypatch.setattr(ray, "init", refuse)
    assert job(None, "--address", "auto") == 1
    error = capsys.readouterr().err
    assert error == "error: no Ray cluster answers at auto: Failed to connect to GCS\n"


def test_an_input_without_videos_is_one_line(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not "nothing to do"; neither with --dry-run."""
    (tmp_path / "empty").mkdir()
    for option in ("--resume", "--dry-run"):
        assert job(caption_all, "--input", str(tmp_path / "empty"), option) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: no videos in {tmp_path / 'empty'} (nothing ends in .mp4,")
        assert error.count("\n") == 1


def test_a_run_id_is_used_once(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The earlier run's config and metrics are kept, and its data set is left alone."""
    assert job(caption_all, "--run-id", "night") == 0
    (metrics,) = tmp_path.glob("out/*/runs/night/metrics.json")
    before = metrics.read_bytes()
    assert job(caption_all, "--run-id", "night") == 1
    assert "choose another --run-id" in capsys.readouterr().err
    assert metrics.read_bytes() == before


@pytest.mark.parametrize(
    ("flag", "is_loaded"),
    [
        ("--speculation.method=none", False),
        ("--speculation.drafting.drafter=ngram", False),
        ("--speculation.method=exact", True),
    ],
)
def test_a_draft_that_is_not_asked_is_not_loaded(
    job: Callable[..., int], flag: str, is_loaded: bool
) -> None:
    """A pair's recipe without speculation must not take the draft's memory too."""
    seen: list[RunConfig] = []

    def look(config: RunConfig, plan: WrittenPlan) -> Iterator[CaptionRecord]:
        seen.append(config)
        return caption_all(config, plan)

    assert job(look, flag) == 0
    assert (seen[0].models.draft is not None) is is_loaded


def test_run_ids_of_one_second_differ() -> None:
    """Two jobs that a scheduler starts together have a folder each."""
    run_ids = {new_run_id() for _ in range(20)}
    assert len(run_ids) == 20
    assert all(re.fullmatch(r"\d{8}-\d{6}-utc-[0-9a-f]{6}", run_id) for run_id in run_ids)


def test_one_process_is_not_several_ranks(tmp_path, capsys):
    code = caption_corpus.main(
        ["--recipe", "reference", "--input", str(tmp_path), "--output", str(tmp_path / "out"),
         "--runner", "local", "--tensor-parallel-size", "2"]
    )  # fmt: skip
    assert code == caption_corpus.EXIT_CONFIG
    assert "tensor_parallel_size is 2" in capsys.readouterr().err


def test_a_dry_run_prices_what_is_left(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the last run's rate; these files are no videos, and it says that they will fail."""
    run = ("--cluster.captioner-gpus", "2", "--cost-per-gpu-hour", "3600")
    assert job(caption_all, "--limit", "3") == 0
    (metrics,) = tmp_path.glob("out/*/runs/*/metrics.json")
    values = json.loads(metrics.read_text()) | {"elapsed_s": 30.0}
    metrics.write_text(json.dumps(values))
    capsys.readouterr()
    assert job(caption_all, "--dry-run", "--no-preflight", *run) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    forecast = json.loads(last)
    assert forecast["num_by_reason"] == {
        "new": 1,
        "changed": 0,
        "unfinished": 0,
        "reconfigured": 0,
        "retried": 0,
    }
    assert (forecast["num_videos"], forecast["num_done"], forecast["num_deleted"]) == (1, 3, 0)
    assert forecast["expected_failures"] == {str(tmp_path / "in/3.mp4"): "not_a_video"}
    assert forecast["expected_hours"] == pytest.approx(10 / 3600)  # one clip at 3 in 30 s
    assert forecast["expected_cost"] == pytest.approx(20.0)
    assert any("not_a_video: " in line for line in lines)
    assert len(list(tmp_path.glob("out/*/runs/*"))) == 1, "it wrote"


def test_another_prompt_is_told_as_that(
    job: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a changed file as changed, in the line that a run begins with."""
    assert job(caption_all) == 0
    (tmp_path / "in/0.mp4").write_bytes(b"another")
    (tmp_path / "in/1.mp4").unlink()
    capsys.readouterr()
    assert job(caption_all) == 0
    out = capsys.readouterr().out
    assert "1 videos to caption" in out
    assert "(0 new, 1 changed, 0 unfinished, 0 reconfigured; 2 already done; 1 deleted)" in out
    assert job(caption_all, "--prompt.text", "What happens?") == 0
    assert (
        "(0 new, 0 changed, 0 unfinished, 3 reconfigured; 0 already done" in capsys.readouterr().out
    )

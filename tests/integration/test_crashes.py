"""Guards what is left after a kill: no clip missing, none twice, finished clips not done again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline.config import StorageConfig
from pipeline.dataset.verify import verify
from pipeline.storage import storage_for
from tests.integration.conftest import run_job, start_job
from tests.integration.test_caption_corpus import dataset_folder, rows

NUM_VIDEOS = 60
PATIENCE_S = 120.0
DRAIN_S = 30.0
"""What a job that is asked to stop may take: the nightly manifests give it a little more."""


@pytest.fixture(scope="module")
def many_videos(corpus, tmp_path_factory) -> Path:
    """Enough files that a kill lands in the middle."""
    folder = tmp_path_factory.mktemp("many")
    good = sorted((corpus / "videos").glob("clip-*"))
    for index in range(NUM_VIDEOS):
        source = good[index % len(good)]
        shutil.copy(source, folder / f"{index:03d}{source.suffix}")
    return folder


def wait_for_parts(output: Path, num_parts: int, job: subprocess.Popen[str]) -> None:
    """Wait until so many parts are committed."""
    deadline = time.monotonic() + PATIENCE_S
    while len(list(output.glob("*/captions/part-*"))) < num_parts:
        assert job.poll() is None, "".join(job.communicate())[-3000:]
        assert time.monotonic() < deadline, f"no {num_parts} parts in {PATIENCE_S:.0f} s"
        time.sleep(0.02)


def assert_each_video_once(output: Path) -> None:
    captions = rows(dataset_folder(output), "captions")
    assert len(captions) == NUM_VIDEOS
    assert len({row["clip_id"] for row in captions}) == NUM_VIDEOS
    assert len({row["source_uri"] for row in captions}) == NUM_VIDEOS
    report = verify(storage_for(str(output), StorageConfig()), str(dataset_folder(output)))
    assert report.is_whole, report.problems


def processes_below(job: subprocess.Popen[str]) -> dict[int, tuple[int, str]]:
    """Parent and command line of every process that descends from the job."""
    lines = subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]
    table = {}
    for line in lines:
        pid, parent, command = line.split(maxsplit=2)
        table[int(pid)] = (int(parent), command)

    def is_below(pid: int) -> bool:
        return pid == job.pid or (pid in table and is_below(table[pid][0]))

    return {pid: entry for pid, entry in table.items() if is_below(pid)}


def busy_worker(job: subprocess.Popen[str], worker: str) -> int | None:
    """The worker's process once it is at work: a decode actor then has its decode process."""
    below = processes_below(job)
    for pid, (parent, command) in below.items():
        if worker == "VideoDecoder" and "pipeline.video.decoder_process" in command:
            return parent
        if worker == "Captioner" and f"({worker})" in command:
            return pid
    return None


@pytest.mark.parametrize(("worker", "num_parts"), [("Captioner", 3), ("VideoDecoder", 0)])
def test_worker_killed_in_the_middle(many_videos, write_config, tmp_path, worker, num_parts):
    job = start_job(
        "--config", write_config(output={"uri": str(tmp_path / "out"), "rows_per_part": 1}),
        "--input", many_videos,
    )  # fmt: skip
    wait_for_parts(tmp_path / "out", num_parts, job)
    deadline = time.monotonic() + PATIENCE_S
    while (pid := busy_worker(job, worker)) is None:
        assert time.monotonic() < deadline, f"no {worker} at work in {PATIENCE_S:.0f} s"
    os.kill(pid, signal.SIGKILL)
    output, errors = job.communicate(timeout=240)
    assert job.returncode == 0, (output + errors)[-3000:]
    assert_each_video_once(tmp_path / "out")
    leftover = subprocess.check_output(["ps", "-eo", "ppid,args"], text=True)
    orphans = [line for line in leftover.splitlines() if line.endswith(f" {pid}")]
    assert not orphans, "a decode process outlived its actor"


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_driver_killed_in_the_middle(many_videos, write_config, tmp_path, runner):
    arguments = (
        "--config", write_config(output={"uri": str(tmp_path / "out"), "rows_per_part": 1}),
        "--input", many_videos, "--runner", runner,
    )  # fmt: skip
    job = start_job(*arguments)
    wait_for_parts(tmp_path / "out", 3, job)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    before = {row["clip_id"]: row for row in rows(dataset_folder(tmp_path / "out"), "captions")}
    assert 3 <= len(before) < NUM_VIDEOS, "the kill did not land in the middle"

    result = run_job(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_each_video_once(tmp_path / "out")
    after = {row["clip_id"]: row for row in rows(dataset_folder(tmp_path / "out"), "captions")}
    assert all(after[clip_id] == row for clip_id, row in before.items()), "done again"


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_job_asked_to_stop_commits_and_goes_on_later(many_videos, write_config, tmp_path, runner):
    """SIGTERM is what `ray job stop`, Kubernetes and a spot reclaim send."""
    arguments = (
        "--config", write_config(output={"uri": str(tmp_path / "out"), "seconds_per_part": 0.2}),
        "--input", many_videos, "--runner", runner,
    )  # fmt: skip
    job = start_job(*arguments)
    wait_for_parts(tmp_path / "out", 1, job)
    job.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, errors = job.communicate(timeout=60)
    assert time.monotonic() - asked < DRAIN_S
    assert job.returncode == 1, errors[-3000:]
    assert "interrupted; what was committed stays" in errors
    before = rows(dataset_folder(tmp_path / "out"), "captions")
    assert 0 < len(before) < NUM_VIDEOS
    (figures,) = dataset_folder(tmp_path / "out").glob("runs/*/metrics.json")
    status = json.loads(figures.read_text())
    assert (status["status"], status["num_captions"]) == ("interrupted", len(before))

    result = run_job(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_each_video_once(tmp_path / "out")


def node_with_a_captioner(nodes):
    """A node that is at work: the parent of a captioner's process is the node's raylet."""
    lines = subprocess.check_output(["ps", "-eo", "ppid,args"], text=True).splitlines()
    parents = {int(line.split()[0]) for line in lines if "(Captioner)" in line}
    for node in nodes:
        if any(raylet.process.pid in parents for raylet in node.all_processes["raylet"]):
            return node
    raise AssertionError("no node has a captioner")


def test_node_lost_in_the_middle(many_videos, write_config, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": 100 << 20,
            "include_dashboard": False,
        },
    )
    try:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
        cluster.wait_for_nodes()
        job = start_job(
            "--config", write_config(
                output={"uri": str(tmp_path / "out"), "rows_per_part": 1},
                cluster={"num_decoders": 2, "decoder_cpus": 0.25, "num_captioners": 2,
                         "captioner_cpus": 0.25},
            ),
            "--input", many_videos, "--address", cluster.address,
        )  # fmt: skip
        wait_for_parts(tmp_path / "out", 3, job)
        cluster.remove_node(node_with_a_captioner(nodes), allow_graceful=False)
        output, errors = job.communicate(timeout=240)
        assert job.returncode == 0, (output + errors)[-3000:]
    finally:
        cluster.shutdown()
    assert_each_video_once(tmp_path / "out")

"""Guards that what a gang loses in the middle costs time and no clip: ranks, its captioner, a node.

Every job finds out by itself, goes on, and captions each clip once; nothing of a gang stays behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import command_line, dataset_problems, start_job
from tests.integration.test_caption_corpus import dataset_folder, rows

NUM_VIDEOS = 24
PATIENCE_S = 240.0
DRAIN_S = 30.0
"""What a job that is asked to stop may take: the nightly manifests give it a little more."""
LEADING, FOLLOWING = "ray::Rank.caption", "ray::Rank.follow"
"""What a rank's process is called while it is at work on a call."""


@pytest.fixture(scope="module")
def many_videos(corpus, tmp_path_factory) -> Path:
    """Enough short files that a kill lands in the middle."""
    folder = tmp_path_factory.mktemp("many")
    good = sorted((corpus / "videos").glob("clip-*.mp4"))
    for index in range(NUM_VIDEOS):
        source = good[index % len(good)]
        shutil.copy(source, folder / f"{index:03d}{source.suffix}")
    return folder


@pytest.fixture
def start_gang_job(standing_cluster, many_videos, write_config, tmp_path):
    """Start a job of one gang of two ranks on the standing cluster, in calls of two clips."""
    output = tmp_path / "out"
    jobs: list[subprocess.Popen[str]] = []

    def start(**gang: object) -> subprocess.Popen[str]:
        config = write_config(
            output={"uri": str(output), "rows_per_part": 1},
            generation={"max_tokens": 24, "max_num_seqs": 2},
            cluster={"num_decoders": 1, "decoder_cpus": 0.5, "captioner_cpus": 0.5,
                     "max_clips_in_flight": 4, "gang": gang},
        )  # fmt: skip
        job = start_job(
            "--config", config, "--input", many_videos, "--address", standing_cluster.address,
            "--tensor-parallel-size", 2,
        )  # fmt: skip
        jobs.append(job)
        return job

    yield start
    for job in jobs:  # of a test that failed
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()


def wait_for(what: str, find: Callable[[], object], job: subprocess.Popen[str]):
    """What is found, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := find()):
        assert job.poll() is None, f"ended before {what}: " + "".join(job.communicate())[-3000:]
        assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S:.0f} s"
        time.sleep(0.002)
    return found


def worker_in_the_middle(
    cluster, title: str, output: Path, job: subprocess.Popen[str], num_parts: int = 2
) -> int:
    """A worker that is at this, once some clips are captioned and more are to come."""
    wait_for("clips", lambda: len(list(output.glob("*/captions/part-*"))) >= num_parts, job)
    kind = title.partition(".")[0]
    workers = cluster.processes(kind)
    assert workers, f"no {kind}"
    (worker,) = wait_for(
        title, lambda: [pid for pid in workers if title in command_line(pid)][:1], job
    )
    assert len(rows(dataset_folder(output), "captions")) < NUM_VIDEOS, "not in the middle"
    return worker


def assert_done(job: subprocess.Popen[str], output: Path) -> str:
    """The job ends well, with each clip once; returns what it said."""
    said, errors = job.communicate(timeout=240)
    assert job.returncode == 0, (said + errors)[-3000:]
    captions = rows(dataset_folder(output), "captions")
    assert len(captions) == NUM_VIDEOS
    assert len({row["clip_id"] for row in captions}) == NUM_VIDEOS
    assert len({row["source_uri"] for row in captions}) == NUM_VIDEOS
    assert dataset_problems(output) == []
    return said


@pytest.mark.parametrize("title", [LEADING, FOLLOWING])
def test_rank_killed_in_the_middle(standing_cluster, start_gang_job, tmp_path, title):
    """The gang is built anew, and the job says that and why."""
    job = start_gang_job()
    os.kill(worker_in_the_middle(standing_cluster, title, tmp_path / "out", job), signal.SIGKILL)
    said = assert_done(job, tmp_path / "out")
    assert said.count("a gang was lost") == 1
    assert said.count("built anew in") == 1
    standing_cluster.assert_nothing_left()


def test_rank_stopped_in_the_middle(standing_cluster, start_gang_job, tmp_path):
    """It looks alive to Ray: only that it answers nobody gives it away, and only SIGKILL ends it.
    The other rank waits for it in shared memory and is ended too."""
    job = start_gang_job(heartbeat_s=0.5)
    stopped = worker_in_the_middle(standing_cluster, FOLLOWING, tmp_path / "out", job)
    os.kill(stopped, signal.SIGSTOP)
    said = assert_done(job, tmp_path / "out")
    assert "a gang was lost" in said
    assert "it did not answer for 5 s" in said
    assert command_line(stopped) == "", "a stopped rank outlived its gang"
    standing_cluster.assert_nothing_left()


def test_captioner_killed_in_the_middle(standing_cluster, start_gang_job, tmp_path):
    """Ray Data starts another, which builds a gang; the ranks of the dead one do not stay."""
    job = start_gang_job()
    output = tmp_path / "out"
    captioner = worker_in_the_middle(standing_cluster, "(GangCaptioner)", output, job)
    ranks = standing_cluster.processes("ray::Rank")
    assert len(ranks) == 2
    os.kill(captioner, signal.SIGKILL)
    assert_done(job, output)
    assert not any(command_line(rank) for rank in ranks), "ranks outlived their captioner"
    standing_cluster.assert_nothing_left()


def test_node_lost_in_the_middle(standing_cluster, start_gang_job, tmp_path):
    """A gang over two nodes is built anew on the one that is left."""
    node = standing_cluster.add_node(num_cpus=1)
    job = start_gang_job(placement_strategy="SPREAD")
    worker_in_the_middle(standing_cluster, LEADING, tmp_path / "out", job)
    ranks = [psutil.Process(pid) for pid in standing_cluster.processes("ray::Rank")]
    assert len({rank.ppid() for rank in ranks}) == 2, "the gang is not on both nodes"
    standing_cluster.lose_node(node)
    assert_done(job, tmp_path / "out")
    standing_cluster.assert_nothing_left()


def test_job_asked_to_stop_in_the_middle(standing_cluster, start_gang_job, tmp_path):
    """SIGTERM, as Kubernetes sends it: in time, with all that was captioned; nothing of the gang
    stays, and the next night does the rest, each clip once."""
    output = tmp_path / "out"
    job = start_gang_job()
    worker_in_the_middle(standing_cluster, LEADING, output, job)
    job.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, errors = job.communicate(timeout=60)
    assert time.monotonic() - asked < DRAIN_S
    assert job.returncode == 1, errors[-3000:]
    assert "interrupted; what was committed stays" in errors
    standing_cluster.assert_nothing_left()
    before = {row["clip_id"]: row for row in rows(dataset_folder(output), "captions")}
    assert 0 < len(before) < NUM_VIDEOS

    assert_done(start_gang_job(), output)
    after = {row["clip_id"]: row for row in rows(dataset_folder(output), "captions")}
    assert all(after[clip_id] == row for clip_id, row in before.items()), "done again"


def test_job_interrupted_in_the_middle(standing_cluster, start_gang_job, tmp_path):
    """Ctrl-C ends the job, and with it everything that its gang had."""
    job = start_gang_job()
    worker_in_the_middle(standing_cluster, LEADING, tmp_path / "out", job)
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 1, errors[-3000:]
    assert "interrupted; what was committed stays" in errors
    standing_cluster.assert_nothing_left()
    assert 0 < len(rows(dataset_folder(tmp_path / "out"), "captions")) < NUM_VIDEOS

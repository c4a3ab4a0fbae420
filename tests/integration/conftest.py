"""What the integration tests share: a tiny pair on disk, real sample videos, the job as a process.

The job runs as a person runs it: `python jobs/caption_corpus.py ...` in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster
from tiny_models import write_tiny_pair

from pipeline.config import StorageConfig
from pipeline.dataset.verify import verify
from pipeline.sample_world.corpus import CorpusPlan, write_corpus
from pipeline.storage import storage_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory) -> tuple[Path, Path]:
    return write_tiny_pair("qwen2_5_vl", tmp_path_factory.mktemp("tiny-pair"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """videos/: 10 good files in every codec of the sample world, and one of each damage."""
    folder = tmp_path_factory.mktemp("corpus")
    for _ in write_corpus(folder, CorpusPlan(num_videos=10, num_damaged=6)):
        pass
    return folder


@pytest.fixture
def write_config(tmp_path, tiny_pair):
    """A config file for the tiny pair, of the given sections."""

    def write(**sections: object) -> Path:
        target, draft = tiny_pair
        config = {
            "models": {
                "target": {"name": str(target), "dtype": "float32"},
                "draft": {"name": str(draft), "dtype": "float32"},
                "device": "cpu",
                "num_threads": 1,
            },
            "video": {
                "sampling": {"policy": "uniform", "num_frames": 4},
                "frame_size": {"fixed_px": [56, 56]},
            },
            "generation": {"max_tokens": 12},
            "cluster": {"num_decoders": 1, "decoder_cpus": 0.5, "captioner_cpus": 0.5},
            "failures": {"max_share": 1.0},
        }
        path = tmp_path / f"config-{len(list(tmp_path.glob('config-*')))}.yaml"
        path.write_text(yaml.safe_dump(config | sections))
        return path

    return write


def start_job(*arguments: object) -> subprocess.Popen[str]:
    """Start the job; its Ray cluster, if it starts one, is its own."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "jobs/caption_corpus.py", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_job(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the job to its end."""
    process = start_job(*arguments)
    output, errors = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class StandingCluster:
    """A Ray cluster that outlives the jobs on it, so that what they leave behind is seen.

    One node of two CPUs; ``add_node`` adds others. It has a folder of its own: a job elsewhere on
    this machine that names no address would follow Ray's usual one to this cluster.
    """

    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "object_store_memory": 100 << 20,
                "include_dashboard": False,
            },
        )
        self.address: str = self._cluster.address

    def add_node(self, num_cpus: int):
        """Another node of this machine."""
        return self._cluster.add_node(num_cpus=num_cpus, object_store_memory=100 << 20)

    def lose_node(self, node) -> None:
        """Kill a node and all that runs on it."""
        self._cluster.remove_node(node, allow_graceful=False)

    def processes(self, title: str) -> list[int]:
        """Workers whose command line, which Ray sets to what they are at, has this in it."""
        nodes = self._cluster.list_all_nodes()
        raylets = [raylet.process for node in nodes for raylet in node.all_processes["raylet"]]
        workers = [worker for raylet in raylets for worker in _children(raylet.pid)]
        return [worker for worker in workers if title in command_line(worker)]

    def placement_groups(self) -> list[str]:
        """States of those that are not removed."""
        groups = self._cluster.global_state.placement_group_table().values()
        return [group["state"] for group in groups if group["state"] != "REMOVED"]

    def assert_nothing_left(self) -> None:
        """Neither ranks nor their places; Ray ends a job's actors soon after the job."""
        deadline = time.monotonic() + 20
        while (ranks := self.processes("ray::Rank")) or self.placement_groups():
            assert time.monotonic() < deadline, (ranks, self.placement_groups())
            time.sleep(0.2)

    def close(self) -> None:
        self._cluster.shutdown()


def command_line(pid: int) -> str:
    """Empty if the process is gone, or a zombie."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def standing_cluster() -> Iterator[StandingCluster]:
    folder = tempfile.mkdtemp(prefix="lvspec-ray-")  # short: its sockets have a length limit
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_TMPDIR", folder)
        cluster = StandingCluster()
        try:
            yield cluster
        finally:
            cluster.close()
            shutil.rmtree(folder, ignore_errors=True)


def dataset_problems(output: Path) -> list[str]:
    """What `verify` finds wrong with the one data set below a folder."""
    (dataset,) = output.iterdir()
    return list(verify(storage_for(str(output), StorageConfig()), str(dataset)).problems)

"""What the integration tests share: a tiny pair on disk, real sample videos, the job as a process.

The job runs as a person runs it: `python jobs/caption_corpus.py ...` in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import write_tiny_pair

from pipeline.sample_world.corpus import CorpusPlan, write_corpus

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

"""Guards `make demo`: it shows what it promises, and leaves nothing running, also on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.integration.conftest import ROOT


def start_demo(tmp_path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "jobs/demo.py", "--num-videos", "8", "--output", tmp_path / "demo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_naming(text: str) -> list[str]:
    lines = subprocess.check_output(["ps", "-eo", "pid,stat,args"], text=True).splitlines()
    return [line for line in lines if text in line and " Z" not in line]


def test_demo_captions_a_bucket_through_ray_and_cleans_up(tmp_path):
    demo = start_demo(tmp_path)
    output, _ = demo.communicate(timeout=280)
    assert demo.returncode == 0, output[-5000:]
    assert "14, 0 without a row, 0 with more than one" in output
    assert "same text for 100.0% of 8 clips" in output
    assert "nothing to do" in output
    assert list((tmp_path / "demo" / "dataset").glob("*/captions/part-*.parquet"))
    assert not processes_naming("lvspec-ray-")
    assert not processes_naming("moto.server")


def test_interrupted_demo_ends_what_it_started(tmp_path):
    demo = start_demo(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "submitting" in line:
            break
    assert processes_naming("lvspec-ray-"), "the head should be running by now"
    os.kill(demo.pid, signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not processes_naming("lvspec-ray-")
    assert not processes_naming("moto.server")

"""Guards `make demo`: it shows what it promises, and leaves nothing running, also on Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def leftovers(tmp_path) -> list[str]:
    """Live processes that were started with the demo's folder, or its Ray session, in sight."""
    ray_log = (tmp_path / "demo" / "logs" / "ray.log").read_text()
    sessions = set(re.findall(r"/\S*/lvspec-ray-\w+", ray_log))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            open_files = " ".join(os.readlink(link) for link in (process / "fd").iterdir())
        except OSError:  # ended meanwhile, or not ours to read
            continue
        if any(name in command + open_files for name in (str(tmp_path), *sessions)):
            found.append(f"{process.name}: {command[:200]}")
    return [line for line in found if not line.startswith(f"{os.getpid()}:")]


def left_for_good(tmp_path, patience_s: float = 15.0) -> list[str]:
    """Those that are still there after a while: Ray's workers end once they miss their raylet."""
    deadline_s = time.monotonic() + patience_s
    while (found := leftovers(tmp_path)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return found


def test_demo_captions_a_bucket_through_ray_and_cleans_up(tmp_path):
    demo = start_demo(tmp_path)
    output, _ = demo.communicate(timeout=280)
    assert demo.returncode == 0, output[-5000:]
    assert "14, 0 without a row, 0 with more than one" in output
    assert "same text for 100.0% of 8 clips" in output
    assert "nothing to do" in output
    for cause in ("1 corrupt", "1 empty", "1 no_video_stream", "1 not_a_video", "2 truncated"):
        assert cause in output
    assert list((tmp_path / "demo" / "dataset").glob("*/captions/part-*.parquet"))
    assert not left_for_good(tmp_path)


def test_interrupted_demo_ends_what_it_started(tmp_path):
    demo = start_demo(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "submitting" in line:
            break
    assert leftovers(tmp_path), "the head should be running by now"
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: the whole group
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert not left_for_good(tmp_path)

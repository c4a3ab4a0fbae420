"""A clip that ends every captioner's process costs a few of them, and never the night.

Real Ray clusters and processes that really die; the clip becomes one failure row, its neighbours
are captioned, and the next night does not try it again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, dataset_problems
from tests.integration.test_caption_corpus import dataset_folder, rows
from tests.lethal_job import LETHAL

NUM_VIDEOS = 6
MAX_ATTEMPTS = 2
PATIENCE_S = 580.0
"""Each death is a process that loads its models again, on a machine that may be busy."""


@pytest.fixture(scope="module")
def videos(corpus, tmp_path_factory) -> Path:
    """Good files, but for one that nobody survives."""
    folder = tmp_path_factory.mktemp("videos")
    good = sorted((corpus / "videos").glob("clip-*.mp4"))
    for index in range(NUM_VIDEOS):
        name = f"{index:02d}-{LETHAL if index == 2 else 'good'}.mp4"
        shutil.copy(good[index % len(good)], folder / name)
    return folder


def run_lethal_job(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-m", "tests.lethal_job", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_lethal_clip_becomes_a_row(videos, write_config, tmp_path, num_ranks):
    output = tmp_path / "out"
    arguments = (
        "--config", write_config(
            output={"uri": str(output), "rows_per_part": 1},
            generation={"max_tokens": 8, "max_num_seqs": 2},
            failures={"max_share": 1.0, "max_attempts": MAX_ATTEMPTS},
            cluster={"num_decoders": 1, "decoder_cpus": 0.5, "captioner_cpus": 0.5,
                     "max_clips_in_flight": 8},
        ),
        "--input", videos, "--tensor-parallel-size", num_ranks,
    )  # fmt: skip
    result = run_lethal_job(*arguments)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    captions = rows(dataset_folder(output), "captions")
    failures = rows(dataset_folder(output), "failures")
    assert len(captions) == NUM_VIDEOS - 1
    assert not any(LETHAL in row["source_uri"] for row in captions)
    (row,) = failures
    assert LETHAL in row["source_uri"]
    assert (row["code"], row["kind"], row["stage"]) == ("captioner_crash", "ours", "caption")
    assert row["attempt"] == MAX_ATTEMPTS
    assert re.search(rf"the {MAX_ATTEMPTS} times that it captioned this clip", row["message"])
    assert dataset_problems(output) == []

    again = run_lethal_job(*arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "nothing to do" in again.stdout

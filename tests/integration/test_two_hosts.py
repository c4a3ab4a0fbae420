"""Guards a gang across hosts: its captions, and that the loss of a host costs no clip.

Two network namespaces are the hosts (tests/two_hosts); videos come from an S3 server on the first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import ROOT, dataset_problems
from tests.integration.test_caption_corpus import VOLATILE, dataset_folder, rows
from tests.two_hosts.two_hosts import BUCKET, Host, TwoHosts, two_hosts, why_impossible

NUM_VIDEOS = 20
PATIENCE_S = 120.0
RANK = "ray::Rank"
IMPOSSIBLE = why_impossible()

pytestmark = pytest.mark.skipif(IMPOSSIBLE is not None, reason=str(IMPOSSIBLE))


@pytest.fixture(scope="module")
def hosts(corpus, tmp_path_factory) -> Iterator[TwoHosts]:
    folder = tmp_path_factory.mktemp("bucket")
    good = sorted((corpus / "videos").glob("clip-*.mp4"))
    for index in range(NUM_VIDEOS):
        shutil.copy(good[index % len(good)], folder / f"{index:03d}.mp4")
    with two_hosts(folder) as started:
        yield started


@pytest.fixture
def config(write_config) -> Path:
    # Ray Data deals its workers out over the nodes in turn: of two decoders and a captioner, the
    # captioner comes to the first host, and lives to see that a rank on the second is silent.
    return write_config(
        output={"uri": "overridden", "rows_per_part": 1},
        generation={"max_tokens": 24, "max_num_seqs": 2},
        cluster={"num_decoders": 2, "decoder_cpus": 0.25, "captioner_cpus": 0.5,
                 "max_clips_in_flight": 4, "gang": {"heartbeat_s": 1.0}},
    )  # fmt: skip


def start_job(hosts: TwoHosts, *arguments: object) -> subprocess.Popen[str]:
    """Start the job on the first host."""
    return hosts.first.start(
        sys.executable, "jobs/caption_corpus.py", "--input", f"s3://{BUCKET}",
        "--endpoint-url", hosts.endpoint_url, "--storage.region", "us-east-1",
        "--storage.addressing-style", "path", *arguments,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def gang_of_two(hosts: TwoHosts, placement_strategy: str) -> tuple[object, ...]:
    return (
        "--address", hosts.ray_address, "--tensor-parallel-size", 2,
        "--cluster.gang.placement-strategy", placement_strategy,
    )  # fmt: skip


def assert_done(job: subprocess.Popen[str]) -> str:
    said, errors = job.communicate(timeout=240)
    assert job.returncode == 0, (said + errors)[-3000:]
    return said


def workers_on(host: Host, title: str) -> list[int]:
    """Of the processes on a host, those whose title, which Ray sets, has this in it."""
    found = []
    for pid in host.processes():
        try:
            if title in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
        except psutil.Error:
            continue
    return found


def wait_for_parts(output: Path, num_parts: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(list(output.glob("*/captions/part-*"))) < num_parts:
        assert job.poll() is None, "".join(job.communicate())[-3000:]
        assert time.monotonic() < deadline, f"no {num_parts} parts in {PATIENCE_S:.0f} s"
        time.sleep(0.02)


def captions(output: Path) -> list[dict]:
    """Rows without what two runs may differ in."""
    found = rows(dataset_folder(output), "captions")
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in found]


@pytest.fixture
def alone(hosts, config, tmp_path) -> list[dict]:
    """The bucket captioned by one process on one host."""
    assert_done(
        start_job(
            hosts, "--config", config, "--output", tmp_path / "alone", "--runner", "local"
        )
    )  # fmt: skip
    return captions(tmp_path / "alone")


def test_ranks_on_two_hosts_then_one_host_cut_off(hosts, config, alone, tmp_path):
    """Captions are those of one process, token by token; and with a host less, too.

    One test, for the second half leaves one host: it is cut off in the middle of a job. All that
    runs there goes on and can't be reached, so nothing tells the others but silence.
    """
    assert len(alone) == NUM_VIDEOS

    job = start_job(
        hosts, "--config", config, "--output", tmp_path / "two",
        *gang_of_two(hosts, "STRICT_SPREAD"),
    )  # fmt: skip
    wait_for_parts(tmp_path / "two", 1, job)
    assert [len(workers_on(host, RANK)) for host in (hosts.first, hosts.second)] == [1, 1]
    assert_done(job)
    assert captions(tmp_path / "two") == alone
    assert dataset_problems(tmp_path / "two") == []

    job = start_job(
        hosts, "--config", config, "--output", tmp_path / "cut", *gang_of_two(hosts, "SPREAD")
    )
    wait_for_parts(tmp_path / "cut", 2, job)
    assert [len(workers_on(host, RANK)) for host in (hosts.first, hosts.second)] == [1, 1]
    captioner_stays = workers_on(hosts.first, "(GangCaptioner)") != []
    hosts.second.cut_off()
    assert len(rows(dataset_folder(tmp_path / "cut"), "captions")) < NUM_VIDEOS
    said = assert_done(job)
    assert len(workers_on(hosts.second, RANK)) == 1, "the host was reached after all"
    if captioner_stays:  # else nobody is left to tell of that gang; another captioner was started
        assert "a gang was lost" in said
        assert "built anew in" in said
    assert captions(tmp_path / "cut") == alone
    assert dataset_problems(tmp_path / "cut") == []

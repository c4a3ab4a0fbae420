"""The job around the report: what it takes, where the page goes, how it exits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from dataset_rows import LABELS, caption_of, clip, failure_of, video
from s3_server import Answer, S3Bucket

from jobs import compact_corpus, report
from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout, Table
from pipeline.storage import Storage, storage_for


def fill(storage: Storage, layout: Layout) -> None:
    with Committer(storage, layout, OutputConfig(uri="unused"), "run-1") as writer:
        writer.add_caption(caption_of(clip("a")))
        writer.add_failure(failure_of(None, video("b")))
    storage.put(layout.run_file_uri("run-1", "metrics.json"), b'{"num_captions": 1}')


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.of(str(tmp_path / "out"), LABELS.config_digest)
    fill(storage_for(layout.uri, StorageConfig()), layout)
    return layout


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_page_goes_to_the_runs_folder(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([layout.uri, "--key-frames", "0"]) == 0
    told = last_json(capsys)
    assert told == {
        "report": f"{layout.uri}/runs/run-1/report.html",
        "run_id": "run-1",
        "num_captions": 1,
        "num_failures": 1,
        "num_clips_shown": 1,
        "num_clips_with_key_frames": 0,
    }
    assert f"Caption of {clip('a').clip_id}" in Path(told["report"]).read_text()


def test_or_where_it_is_told_and_the_folder_above_will_do(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "some" / "report.html"
    parent = layout.uri.rpartition("/")[0]
    flags = ("--key-frames", "0", "--run-id", "run-1", "--max-clips", "0", "--output", str(output))
    assert report.main([parent, *flags]) == 0
    assert last_json(capsys)["num_clips_shown"] == 0
    assert "run-1" in output.read_text()
    assert not Path(layout.run_file_uri("run-1", "report.html")).exists()


def test_in_a_bucket_with_videos_that_are_gone(
    s3_bucket: S3Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read and written over HTTP; the page says which key frames there are not, and is made."""
    layout = Layout.of(s3_bucket.uri("out"), LABELS.config_digest)
    storage = storage_for(layout.uri, s3_bucket.config)
    row = caption_of(clip("a")) | {"source_uri": s3_bucket.uri("gone.mp4")}
    with Committer(storage, layout, OutputConfig(uri="unused"), "run-1") as writer:
        writer.add_caption(row)
    flags = (
        *("--endpoint-url", s3_bucket.server.endpoint_url, "--storage.region", "us-east-1"),
        *("--storage.addressing-style", "path"),
    )
    assert report.main([layout.uri, *flags]) == 0
    output = capsys.readouterr().out
    assert "1 clips can't be opened again for key frames" in output
    page = storage.read_bytes(layout.run_file_uri("run-1", "report.html")).decode()
    assert "No key frames: no such object" in page


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{uri}-no"], "no data set in"),
        (["{uri}", "--run-id", "run-9"], "no run run-9"),
        (["{uri}", "--output", "/proc/nowhere/report.html"], "/proc/nowhere"),
    ],
)
def test_what_can_not_be_done_is_told(
    layout: Layout, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    filled = [argument.format(uri=layout.uri) for argument in arguments]
    assert report.main([*filled, "--key-frames", "0"]) == 1
    assert reason in capsys.readouterr().err


def test_a_damaged_part(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    Path(layout.part_uri(Table.CAPTIONS, 1)).write_bytes(b"PAR1")
    assert report.main([layout.uri]) == 1
    assert "a part is damaged" in capsys.readouterr().err


def test_a_data_set_that_may_not_be_written(
    layout: Layout, capsys: pytest.CaptureFixture[str], s3_bucket: S3Bucket
) -> None:
    """The remedy is named. (A bucket, as nothing is forbidden to root in a folder.)"""
    there = Layout.of(s3_bucket.uri("out"), LABELS.config_digest)
    fill(storage_for(there.uri, s3_bucket.config), there)
    s3_bucket.server.fail_next("PUT", Answer.DENIED)
    flags = (
        *("--endpoint-url", s3_bucket.server.endpoint_url, "--storage.region", "us-east-1"),
        *("--storage.addressing-style", "path", "--key-frames", "0"),
    )
    assert report.main([there.uri, *flags]) == 1
    assert "--output" in capsys.readouterr().err


def test_snapshots_and_several_data_sets_are_refused_by_name(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compact_corpus.main([layout.uri]) == 0
    assert report.main([f"{layout.uri}/snapshots/00000001"]) == 1
    assert "is a snapshot" in capsys.readouterr().err
    parent = layout.uri.rpartition("/")[0]
    other = Layout.of(parent, "f" * 16)
    os.makedirs(other.uri)
    fill(storage_for(parent, StorageConfig()), other)
    assert report.main([parent]) == 1
    assert f"several data sets, name one of them: {LABELS.config_digest}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [[], ["x", "--max-clips", "-1"], ["x", "--key-frames", "y"]])
def test_wrong_command_lines(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        report.main(arguments)
    assert exit_info.value.code == 2

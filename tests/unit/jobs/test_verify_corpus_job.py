"""The jobs around verify() and compact(): what they take, what they print, how they exit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import LABELS, caption_of, clip, failure_of, video
from s3_server import Answer, S3Bucket

from jobs import compact_corpus, verify_corpus
from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.compact import LostRaceError
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part
from pipeline.storage import storage_for

OTHER_DIGEST = "f" * 16


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.of(str(tmp_path / "out"), LABELS.config_digest)
    storage = storage_for(layout.uri, StorageConfig())
    with Committer(storage, layout, OutputConfig(uri="unused"), "run-1") as writer:
        writer.add_caption(caption_of(clip("a")))
        writer.add_failure(failure_of(None, video("b")))
    return layout


def last_json(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    output = capsys.readouterr().out
    return json.loads(output.splitlines()[-1]), output


def test_a_whole_data_set(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_corpus.main([layout.uri]) == 0
    told, output = last_json(capsys)
    assert told["is_whole"] is True
    (dataset,) = told["datasets"]
    assert (dataset["num_captions"], dataset["num_failures"]) == (1, 1)
    assert "whole" in output


def test_the_folder_above_and_snapshots(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """Every data set, and of each its newest snapshot; other folders are passed over."""
    parent = layout.uri.rpartition("/")[0]
    Path(parent, "something else").mkdir()
    other = Layout.of(parent, OTHER_DIGEST)
    row = caption_of(clip("a")) | {"config_digest": OTHER_DIGEST}
    storage = storage_for(parent, StorageConfig())
    storage.put(other.part_uri(Table.CAPTIONS, 1), encode_part(Table.CAPTIONS, [row], ""))
    assert compact_corpus.main([layout.uri]) == 0
    told, output = last_json(capsys)
    assert told["datasets"][0]["snapshot"]["last_commit"] == 1
    assert "is now the one to read" in output
    assert Path(layout.uri, "README.md").exists()
    assert verify_corpus.main([parent]) == 0
    uris = [dataset["uri"] for dataset in last_json(capsys)[0]["datasets"]]
    assert uris == [layout.uri, f"{layout.uri}/snapshots/00000001", other.uri]
    assert verify_corpus.main([uris[1]]) == 0
    assert compact_corpus.main([uris[1]]) == 1
    assert compact_corpus.main([parent]) == 0
    assert [done["is_new"] for done in last_json(capsys)[0]["datasets"]] == [False, False]


def test_in_a_bucket(s3_bucket: S3Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    """Over HTTP, with the flags of the captioning job, and a server that stumbles."""
    layout = Layout.of(s3_bucket.uri("out"), LABELS.config_digest)
    storage = storage_for(layout.uri, s3_bucket.config)
    with Committer(storage, layout, OutputConfig(uri="unused"), "run-1") as writer:
        writer.add_caption(caption_of(clip("a")))
        writer.add_failure(failure_of(None, video("b")))
    flags = (
        *("--endpoint-url", s3_bucket.server.endpoint_url, "--storage.region", "us-east-1"),
        *("--storage.addressing-style", "path"),
    )
    s3_bucket.server.fail_next("PUT", Answer.SLOW_DOWN)
    s3_bucket.server.fail_next("GET", Answer.SLOW_DOWN, Answer.TRUNCATED)
    assert compact_corpus.main([layout.uri, *flags]) == 0
    assert verify_corpus.main([s3_bucket.uri("out"), *flags]) == 0
    told, output = last_json(capsys)
    assert [dataset["num_captions"] for dataset in told["datasets"]] == [1, 1]
    assert "not-a-real-secret" not in output


def test_problems_are_told_one_a_line(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    storage = storage_for(layout.uri, StorageConfig())
    part = encode_part(Table.CAPTIONS, [caption_of(clip("a")), caption_of(clip("c", 0, 2))], "")
    storage.put(layout.part_uri(Table.CAPTIONS, 2), part)
    assert verify_corpus.main([layout.uri]) == 4
    told, output = last_json(capsys)
    problems = [line for line in output.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2
    assert "twice in captions" in problems[0]
    assert told["datasets"][0]["num_problems"] == 2
    assert not told["is_whole"]


def test_a_listing_to_hold_it_against(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "in"
    videos.mkdir()
    (videos / "new.mp4").write_bytes(b"x")
    assert verify_corpus.main([layout.uri, "--input", str(videos)]) == 4
    assert f"problem: no row for the video {videos}/new.mp4\n" in capsys.readouterr().out


@pytest.mark.parametrize("is_ended", [True, False])
def test_planned_videos_of_runs_that_ended(
    layout: Layout, capsys: pytest.CaptureFixture[str], is_ended: bool
) -> None:
    """A run that goes on has not promised its plan yet."""
    storage = storage_for(layout.uri, StorageConfig())
    planned = [video("a"), video("q")]
    columns = {"uri": [v.uri for v in planned], "video_id": [v.video_id for v in planned]}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    part = layout.run_file_uri("run-1", "plan/part-00000001.parquet")
    storage.put(part, sink.getvalue().to_pybytes())
    if is_ended:
        storage.put(layout.run_file_uri("run-1", "metrics.json"), b"{}")
    assert verify_corpus.main([layout.uri]) == (4 if is_ended else 0)
    told = f"no row for the video {video('q').uri}, planned by the run run-1"
    assert (told in capsys.readouterr().out) is is_ended


def test_what_can_not_be_read(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing there, or a damaged part: not the same as a data set that is not whole."""
    assert verify_corpus.main([f"{layout.uri}-no"]) == 1
    assert "no data set in" in capsys.readouterr().err
    Path(layout.part_uri(Table.CAPTIONS, 1)).write_bytes(b"PAR1")
    assert verify_corpus.main([layout.uri]) == 1
    assert "a part is damaged" in capsys.readouterr().err
    assert compact_corpus.main([layout.uri]) == 1


def test_a_lost_race(
    layout: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(*arguments: object) -> None:
        raise LostRaceError("another compaction was faster")

    monkeypatch.setattr(compact_corpus, "compact", losing)
    assert compact_corpus.main([layout.uri]) == 4
    assert "was faster" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["x", "--input", "s3://"], ["x", "--endpoint-url", "y"]])
def test_wrong_command_lines(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        verify_corpus.main(arguments)
    assert exit_info.value.code == 2

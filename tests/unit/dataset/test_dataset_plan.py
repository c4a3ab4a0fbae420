"""A plan as written, cut for the workers, and what a forecast makes of it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dataset_rows import LABELS, caption_of
from s3_server import S3Bucket

from pipeline.benchmark.nightly_server import GeneratedKeys, Listing, listing_server
from pipeline.config import (
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    SpeculationMethod,
    StorageConfig,
)
from pipeline.dataset import plan_parts
from pipeline.dataset.catalog import PlannedVideo, Reason, list_videos, listed_prefix
from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part
from pipeline.dataset.plan import Plan
from pipeline.dataset.plan_ahead import ahead
from pipeline.dataset.plan_forecast import RunRate, last_rate, sample_of
from pipeline.dataset.plan_listing import HEAD_PAGES, PAGE_KEYS, list_in_any_order, split_points
from pipeline.dataset.plan_parts import SCHEMA, PlanReader, PlanSlice, write_plan
from pipeline.records import ClipSpec, VideoObject
from pipeline.storage import NotFoundError, storage_for

STORAGE = StorageConfig()


def config_of(uri: str, output: Path) -> RunConfig:
    return RunConfig(
        input=InputConfig(uri=uri),
        output=OutputConfig(uri=str(output)),
        models=ModelsConfig(target=ModelConfig(name="x")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
    )


def planned_in(tmp_path: Path, layout: Layout, uri: str | None = None) -> Plan:
    config = config_of(uri or str(tmp_path / "in"), tmp_path / "out")
    return Plan.of(config, DoneClips(), storage_for(layout.uri, STORAGE), layout)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(str(tmp_path / "out"), LABELS.config_digest)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names that text formats trip over."""
    path = tmp_path / "in"
    path.mkdir()
    for name in (
        b"a b.mp4",
        b"c+d%20.mp4",
        b"new\nline.mp4",
        "漢\U0001f3a5.mp4".encode(),
        b"\xff.mp4",
    ):
        (path / os.fsdecode(name)).write_bytes(b"x")
    return path


def test_a_plan_is_read_back_as_it_was_planned(
    tmp_path: Path, folder: Path, layout: Layout
) -> None:
    """Every name, also one that is no UTF-8, in parts whose schema is written down."""
    planned = list(planned_in(tmp_path, layout))
    storage = storage_for(layout.uri, STORAGE)
    written = write_plan(storage, layout, "night", planned_in(tmp_path, layout))
    assert list(written) == planned
    assert len(planned) == 5
    (part,) = written.parts
    assert part.part_uri == f"{layout.uri}/runs/night/plan/part-00000001.parquet"
    table = pq.read_table(io.BytesIO(storage.read_bytes(part.part_uri)))
    assert table.schema.equals(SCHEMA)
    assert table.column("video_id").to_pylist() == [each.video.video_id for each in planned]
    whole = json.loads(
        (tmp_path / "out" / LABELS.config_digest / "runs/night/plan.json").read_text()
    )
    assert whole["num_parts"] == 1
    assert whole["num_by_reason"] == {
        "new": 5,
        "changed": 0,
        "unfinished": 0,
        "reconfigured": 0,
        "retried": 0,
    }


def test_a_plan_that_breaks_off_says_so(
    tmp_path: Path, folder: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without plan.json its parts are not all."""
    monkeypatch.setattr(plan_parts, "ROWS_PER_PART", 2)

    class Breaking(Plan):
        def __iter__(self):
            for number, planned in enumerate(super().__iter__()):
                if number == 3:
                    raise NotFoundError(planned.video.uri, "gone")
                yield planned

    plan = Breaking(
        config_of(str(folder), tmp_path / "out"), DoneClips(), planned_in(tmp_path, layout)._written
    )
    with pytest.raises(NotFoundError):
        write_plan(storage_for(layout.uri, STORAGE), layout, "night", plan)
    run = tmp_path / "out" / LABELS.config_digest / "runs/night"
    assert [path.name for path in run.iterdir()] == ["plan"]


def test_few_videos_are_dealt_out_one_by_one(
    tmp_path: Path, folder: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is one call's work, so a small run is spread over the decoders."""
    monkeypatch.setattr(plan_parts, "ROWS_PER_PART", 3)
    written = write_plan(
        storage_for(layout.uri, STORAGE), layout, "night", planned_in(tmp_path, layout)
    )
    assert [(rows.start, rows.stop) for rows in written.slices(4096)] == [
        *((0, 1), (1, 2), (2, 3)),
        *((0, 1), (1, 2)),
    ]
    assert [(rows.start, rows.stop) for rows in written.slices(3)] == [(0, 2), (2, 3), (0, 2)]


def test_a_reader_keeps_the_part_that_it_reads(
    tmp_path: Path, folder: Path, layout: Layout
) -> None:
    """Slices of one row must not fetch a part of ten thousand each."""
    storage = storage_for(layout.uri, STORAGE)
    written = write_plan(storage, layout, "night", planned_in(tmp_path, layout))
    reader = PlanReader(storage)
    first, *others = written.slices(4096)
    planned = list(reader.read(first))
    Path(first.part_uri).unlink()
    planned += [each for rows in others for each in reader.read(rows)]
    assert len(planned) == 5
    with pytest.raises(NotFoundError):
        list(reader.read(PlanSlice(f"{first.part_uri}2", 0, 1)))


def test_deleted_are_those_below_the_input_folder(
    tmp_path: Path, folder: Path, layout: Layout
) -> None:
    """A data set may hold other folders as well; a manifest says nothing of what it leaves out."""
    storage = storage_for(layout.uri, STORAGE)
    names = [f"{folder}/gone.mp4", f"{folder}2/other.mp4", f"{folder}/a b.mp4"]
    rows = [caption_of(ClipSpec(VideoObject(name, "old", 1), 0, 1, 0.0, 1.0)) for name in names]
    storage.put(layout.part_uri(Table.CAPTIONS, 1), encode_part(Table.CAPTIONS, rows, "w"))
    plan = planned_in(tmp_path, layout)
    reasons = {Path(each.video.uri).name: each.reason for each in plan}
    assert reasons["a b.mp4"] is Reason.CHANGED
    assert plan.counts.num_deleted == 1
    (tmp_path / "m.csv").write_text(f"uri\n{folder}/a b.mp4\n")
    manifest = planned_in(tmp_path, layout, str(tmp_path / "m.csv"))
    assert [each.reason for each in manifest] == [Reason.CHANGED]
    assert manifest.counts.num_deleted is None


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://b", "s3://b/"),
        ("s3://b/v/", "s3://b/v/"),
        ("/in/v", "/in/v/"),
        ("file:///in/v/", "/in/v/"),
        ("/", "/"),
        ("s3://b/list.csv", None),
        ("/in/one.mp4", None),
    ],
)
def test_what_the_names_of_a_listing_begin_with(uri: str, prefix: str | None) -> None:
    assert listed_prefix(InputConfig(uri=uri)) == prefix


def test_a_sibling_that_cannot_be_read_does_not_stop_a_run(
    tmp_path: Path, folder: Path, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    """What other data sets hold only explains the plan."""
    storage = storage_for(layout.uri, STORAGE)
    storage.put(Layout.of(str(tmp_path / "out"), "f" * 16).part_uri(Table.CAPTIONS, 1), b"torn")
    assert [each.reason for each in planned_in(tmp_path, layout)] == [Reason.NEW] * 5
    assert "does not regard" in caplog.text


def test_the_last_rate_is_that_of_the_newest_finished_run(layout: Layout) -> None:
    """Runs of nothing and broken runs tell nothing; another digest is better than none."""
    storage = storage_for(layout.uri, STORAGE)
    assert last_rate(storage, layout) is None

    def finish(at: Layout, run_id: str, num_captions: int) -> None:
        metrics = {"num_captions": num_captions, "num_failures": 2, "elapsed_s": 4.0}
        if num_captions == 0:
            metrics["num_failures"] = 0
        storage.put(at.run_file_uri(run_id, "metrics.json"), json.dumps(metrics).encode())

    other = Layout(f"{layout.uri[:-16]}{'e' * 16}")
    finish(other, "20260101-000000-utc-aaaaaa", 6)
    assert last_rate(storage, layout) == RunRate(
        f"{other.uri}/runs/20260101-000000-utc-aaaaaa", 8, 4.0
    )
    finish(layout, "20250101-000000-utc-aaaaaa", 2)
    finish(layout, "20250102-000000-utc-aaaaaa", 0)
    storage.put(layout.run_file_uri("20250103-000000-utc-aaaaaa", "config.yaml"), b"x")
    found = last_rate(storage, layout)
    assert found is not None
    assert found.clips_per_s == 1.0


def test_a_sample_is_drawn_from_all_of_the_plan() -> None:
    """And is all of a small one."""
    videos = [PlannedVideo(VideoObject(f"/{n}.mp4", "e", n)) for n in range(1000)]
    assert sample_of(videos[:7]) == videos[:7]
    sizes = [each.video.size_bytes for each in sample_of(videos, 100)]
    assert len(set(sizes)) == 100
    assert 400 < sum(sizes) / 100 < 600


def test_calls_are_made_ahead_but_not_far() -> None:
    """In order, an error where it is due, and memory for twice the threads."""
    asked: list[int] = []

    def items():
        for number in range(100):
            asked.append(number)
            yield number

    results = ahead(lambda number: 10 // (number - 20), items(), num_threads=3)
    assert next(results) == 10 // -20
    assert len(asked) <= 7
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert len(asked) <= 30


@pytest.mark.parametrize("per_folder", [2_000, 1_000_000, 3])
def test_a_large_listing_is_cut_into_ranges(
    per_folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some folders, one flat folder, one for every few videos: all are cut, and listed once."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTONLY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    num_objects = HEAD_PAGES * PAGE_KEYS + 5_000
    with listing_server(Listing(GeneratedKeys(num_objects, per_folder))) as server:
        config = StorageConfig(
            endpoint_url=server.endpoint_url, region="us-east-1", addressing_style="path"
        )
        storage = storage_for("s3://corpus", config)
        assert len(split_points(storage, "s3://corpus/videos")) > 5
        server.listing.num_requests = 0
        found = [each.uri for each in list_in_any_order(storage, "s3://corpus/videos")]
        assert len(found) == len(set(found)) == num_objects
        assert server.listing.num_requests < 130
        in_order = [each.uri for each in list_videos(InputConfig(uri="s3://corpus/videos"), config)]
    assert in_order == sorted(found)


def test_folders_of_a_bucket_and_of_a_disk(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    """Only those directly below, without a slash at the end; objects are none."""
    for name in ("x/b c/1", "x/a/1", "x/a/2/3", "x/z"):
        s3_bucket.client().put_object(Bucket=s3_bucket.name, Key=name, Body=b"")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    bucket = storage_for(s3_bucket.uri("x"), s3_bucket.config)
    assert list(bucket.folders(s3_bucket.uri("x"))) == [
        s3_bucket.uri("x/a"),
        s3_bucket.uri("x/b c"),
    ]
    disk = storage_for(str(tmp_path), STORAGE)
    assert list(disk.folders(f"{tmp_path}/x")) == [f"{tmp_path}/x/a", f"{tmp_path}/x/b c"]
    for storage, root in ((bucket, s3_bucket.uri("x")), (disk, f"{tmp_path}/x")):
        names = [found.uri for found in storage.list(root, f"{root}/a/1", f"{root}/b c/1")]
        assert names == [f"{root}/a/2/3", f"{root}/b c/1"]

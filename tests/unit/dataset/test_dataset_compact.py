"""A snapshot: the same rows, sorted, in files of a size; published by one put or not at all."""

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import LABELS, caption_of, clip, failure_of, video
from s3_server import Answer, S3Bucket

from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset import compact_sort
from pipeline.dataset.commit import Committer
from pipeline.dataset.compact import (
    Compaction,
    ForeignPartError,
    LostRaceError,
    closed_parts,
    compact,
)
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part, iter_rows
from pipeline.dataset.snapshot import (
    SnapshotError,
    dataset_of,
    pointer_uri,
    read_pointer,
    snapshot_layout,
)
from pipeline.dataset.verify import verify
from pipeline.storage import Storage, StorageError, storage_for


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(str(tmp_path), LABELS.config_digest)


@pytest.fixture
def storage(layout: Layout) -> Storage:
    return storage_for(layout.uri, StorageConfig())


def write(
    storage: Storage,
    layout: Layout,
    names: list[str],
    is_ended: bool = True,
    rows_per_part: int = 3,
) -> None:
    """A run: of each video two captions and a failure, and one video that failed as a whole."""
    run_id = f"run-{names[0]}-{len(names)}"
    specs = [clip(name, index, 3) for name in names for index in range(3)]
    random.Random(0).shuffle(specs)
    output = OutputConfig(uri="unused", rows_per_part=rows_per_part)
    with Committer(storage, layout, output, run_id) as writer:
        for spec in specs:
            if spec.clip_index == 1:
                writer.add_failure(failure_of(spec))
            else:
                writer.add_caption(caption_of(spec))
        writer.add_failure(failure_of(None, video(f"broken-{names[0]}")))
    if is_ended:
        storage.put(layout.run_file_uri(run_id, "metrics.json"), b"{}")


def rows(storage: Storage, layout: Layout, table: Table) -> list[dict[str, Any]]:
    return list(iter_rows(storage, layout, table))


def sort_key(row: dict[str, Any]) -> tuple[str, int, str]:
    index = row["clip_index"]
    return row["source_uri"], -1 if index is None else index, row["clip_id"]


def done(compaction: Compaction | None) -> Compaction:
    assert compaction is not None
    return compaction


@pytest.mark.parametrize("run_bytes", [1, 10_000, 1 << 28])
def test_the_same_rows_sorted(
    storage: Storage, layout: Layout, monkeypatch: pytest.MonkeyPatch, run_bytes: int
) -> None:
    """Whether they fit in memory, or go through few or many temporary files."""
    monkeypatch.setattr(compact_sort, "_ROWS_PER_BATCH", 2)
    monkeypatch.setattr(compact_sort.sorted_batches, "__defaults__", (run_bytes,))
    write(storage, layout, ["b", "ä", "a", "z", "é"])
    made = done(compact(storage, layout.uri, target_bytes=1))
    snapshot = snapshot_layout(layout, made.snapshot.name)
    for table in Table:
        live = rows(storage, layout, table)
        assert rows(storage, snapshot, table) == sorted(live, key=sort_key)
        assert made.snapshot.of(table).num_rows == len(live)
        assert made.snapshot.of(table).num_parts > 1
    live_report, report = (verify(storage, each.uri) for each in (layout, snapshot))
    assert live_report.is_whole, live_report.problems
    assert report.is_whole, report.problems
    assert (report.num_captions, report.num_failures, report.num_videos) == (10, 6, 6)
    assert report.num_commits == live_report.num_commits


def test_parts_have_about_the_target_size(storage: Storage, layout: Layout) -> None:
    write(storage, layout, [f"{n:03d}" for n in range(300)], rows_per_part=200)
    snapshot = done(compact(storage, layout.uri, target_bytes=20_000)).snapshot
    folder = Path(snapshot_layout(layout, snapshot.name).table_uri(Table.CAPTIONS))
    *full, last = [path.stat().st_size for path in sorted(folder.iterdir())]
    assert len(full) == snapshot.captions.num_parts - 1
    assert all(20_000 <= size < 60_000 for size in full)
    assert snapshot.captions.num_bytes == sum(full) + last


def test_a_second_compaction_takes_the_new_commits_in(storage: Storage, layout: Layout) -> None:
    """And where there are none, it writes nothing."""
    write(storage, layout, ["a"])
    first = done(compact(storage, layout.uri))
    assert first.is_new
    files = sorted(item.uri for item in storage.list(layout.uri))
    assert done(compact(storage, layout.uri)) == Compaction(first.snapshot, is_new=False)
    assert sorted(item.uri for item in storage.list(layout.uri)) == files
    write(storage, layout, ["b"])
    second = done(compact(storage, layout.uri))
    assert second.snapshot.last_commit > first.snapshot.last_commit
    found = read_pointer(storage, layout)
    assert found is not None
    assert found[0] == second.snapshot
    old = snapshot_layout(layout, first.snapshot.name)
    assert verify(storage, old.uri).is_whole, "an older snapshot stays what it was"


def test_nothing_to_compact(storage: Storage, layout: Layout) -> None:
    assert compact(storage, layout.uri) is None
    assert read_pointer(storage, layout) is None


def test_the_last_commit_waits_until_it_can_not_change(storage: Storage, layout: Layout) -> None:
    """Its failures may be on their way, unless they are there, or its run has ended."""
    write(storage, layout, ["a"], is_ended=False)
    last = len(list(storage.list(layout.table_uri(Table.CAPTIONS))))
    assert closed_parts(storage, layout).last == last, "the last one has failures"
    part = encode_part(Table.CAPTIONS, [caption_of(clip("q"))], "run-q/token")
    storage.put(layout.part_uri(Table.CAPTIONS, last + 1), part)
    assert closed_parts(storage, layout).last == last
    assert done(compact(storage, layout.uri)).snapshot.last_commit == last
    storage.put(layout.run_file_uri("run-q", "metrics.json"), b"{}")
    assert closed_parts(storage, layout).last == last + 1


class DyingError(Exception):
    """Stands for the process's end."""


@pytest.mark.parametrize("dies_at", ["snapshot.json", "latest.json", "part-00000001.parquet"])
def test_a_crash_leaves_the_old_pointer(
    storage: Storage, layout: Layout, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    """At any step; and the next compaction is not in its way."""
    write(storage, layout, ["a"])
    old = done(compact(storage, layout.uri)).snapshot
    write(storage, layout, ["b"])
    with monkeypatch.context() as patch:
        for name in ("put", "put_if_match"):
            real = getattr(type(storage), name)

            def dying(self: Storage, uri: str, *rest: Any, real: Any = real) -> None:
                if uri.endswith(dies_at):
                    raise DyingError
                real(self, uri, *rest)

            patch.setattr(type(storage), name, dying)
        with pytest.raises(DyingError):
            compact(storage, layout.uri)
    found = read_pointer(storage, layout)
    assert found is not None
    assert found[0] == old
    unfinished = snapshot_layout(layout, f"{closed_parts(storage, layout).last:08d}")
    if dies_at != "latest.json":
        assert any("not finished" in p for p in verify(storage, unfinished.uri).problems)
    new = done(compact(storage, layout.uri)).snapshot
    assert new.name.startswith(f"{new.last_commit:08d}-")
    assert verify(storage, snapshot_layout(layout, new.name).uri).is_whole


@pytest.mark.parametrize("has_pointer", [False, True])
def test_of_two_compactions_one_wins(s3_bucket: S3Bucket, has_pointer: bool) -> None:
    """The other has overlapped it entirely: it tells so, and its snapshot is named by nothing."""
    layout = Layout.of(s3_bucket.uri("out"), LABELS.config_digest)
    storage = storage_for(layout.uri, s3_bucket.config)
    write(storage, layout, ["a"])
    if has_pointer:
        compact(storage, layout.uri)
        write(storage, layout, ["b"])
    others: list[Compaction] = []

    def meanwhile(line: str) -> None:
        if line.startswith("writing commits") and not others:
            others.append(Compaction(None, True))  # type: ignore[arg-type]
            others[0] = done(compact(storage, layout.uri))

    with pytest.raises(LostRaceError, match="another compaction was faster"):
        compact(storage, layout.uri, print_line=meanwhile)
    found = read_pointer(storage, layout)
    assert found is not None
    assert found[0] == others[0].snapshot
    assert verify(storage, snapshot_layout(layout, found[0].name).uri).is_whole


def test_a_flip_whose_answer_is_lost_has_happened(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.of(s3_bucket.uri("out"), LABELS.config_digest)
    storage = storage_for(layout.uri, s3_bucket.config)
    write(storage, layout, ["a"])
    real = type(storage).put_if_absent

    def losing(self: Storage, uri: str, data: bytes) -> None:
        if uri == pointer_uri(layout):
            s3_bucket.server.fail_next("PUT", Answer.LOST)
        real(self, uri, data)

    monkeypatch.setattr(type(storage), "put_if_absent", losing)
    made = done(compact(storage, layout.uri))
    found = read_pointer(storage, layout)
    assert found is not None
    assert found[0] == made.snapshot


def test_a_part_of_an_older_version_gets_all_columns(storage: Storage, layout: Layout) -> None:
    """Readers that want one schema find it in a snapshot."""
    table = pa.Table.from_pylist([caption_of(clip("a"))], schema=Table.CAPTIONS.schema)
    put_table(storage, layout, 1, table.drop_columns(["tokens", "scoring_s"]))
    storage.put(
        layout.part_uri(Table.FAILURES, 1), encode_part(Table.FAILURES, [failure_of(clip("b"))], "")
    )
    snapshot = snapshot_layout(layout, done(compact(storage, layout.uri)).snapshot.name)
    (row,) = rows(storage, snapshot, Table.CAPTIONS)
    assert row == caption_of(clip("a")) | {"tokens": None, "scoring_s": None}
    with storage.open(snapshot.part_uri(Table.CAPTIONS, 1)) as stream:
        assert pq.read_schema(stream).equals(Table.CAPTIONS.schema)


def test_a_foreign_part_is_refused(storage: Storage, layout: Layout) -> None:
    """Rows that can't be copied as they are must not be dropped."""
    write(storage, layout, ["a"])
    table = pa.Table.from_pylist([caption_of(clip("q"))], schema=Table.CAPTIONS.schema)
    put_table(storage, layout, 1, table.append_column("mood", pa.array(["good"])))
    with pytest.raises(ForeignPartError, match="another schema"):
        compact(storage, layout.uri)
    assert read_pointer(storage, layout) is None


def test_a_snapshot_that_lost_a_file(storage: Storage, layout: Layout) -> None:
    """Whole videos are gone, which no row tells: the description does."""
    write(storage, layout, ["a", "b"])
    snapshot = done(compact(storage, layout.uri, target_bytes=1)).snapshot
    folder = snapshot_layout(layout, snapshot.name)
    Path(folder.part_uri(Table.CAPTIONS, snapshot.captions.num_parts)).unlink()
    problems = "\n".join(verify(storage, folder.uri).problems)
    assert "has not the parts 1 to" in problems
    assert "rows, not 4" in problems


def test_which_folders_are_snapshots() -> None:
    """An output folder of that name is none."""
    dataset = "s3://b/snapshots/0123456789abcdef"
    assert dataset_of(f"{dataset}/snapshots/00000012/") == Layout(dataset)
    assert dataset_of(f"{dataset}/snapshots/00000012-0a1b2c") == Layout(dataset)
    assert dataset_of(dataset) is dataset_of(f"{dataset}/snapshots") is None


def test_a_pointer_that_is_not_ours(storage: Storage, layout: Layout) -> None:
    for data in (b"{", b"[]", b'{"name": "1"}'):
        storage.put(pointer_uri(layout), data)
        with pytest.raises(SnapshotError, match="not a description"):
            read_pointer(storage, layout)
    assert issubclass(SnapshotError, StorageError)


def put_table(storage: Storage, layout: Layout, number: int, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.put(layout.part_uri(Table.CAPTIONS, number), sink.getvalue())

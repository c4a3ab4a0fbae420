"""verify() finds each way in which a data set can be wrong, and nothing in a whole one."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import LABELS, MemoryStorage, caption_of, clip, failure_of, video

from pipeline.config import OutputConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part, iter_rows, read_done
from pipeline.dataset.verify import verify
from pipeline.dataset.verify_counters import counter_problems

LAYOUT = Layout.of("s3://out", LABELS.config_digest)


@pytest.fixture
def storage() -> MemoryStorage:
    """a: whole; b: one caption, one failure; c: failed as a whole."""
    storage = MemoryStorage()
    output = OutputConfig(uri="s3://out", rows_per_part=2)
    with Committer(storage, LAYOUT, output, "run-1") as writer:
        writer.add_caption(caption_of(clip("a")))
        writer.add_caption(caption_of(clip("b", 0, 2)))
        writer.add_failure(failure_of(clip("b", 1, 2)))
        writer.add_failure(failure_of(None, video("c")))
    return storage


def put(storage: MemoryStorage, table: Table, number: int, *rows: dict[str, Any]) -> None:
    storage.put(LAYOUT.part_uri(table, number), encode_part(table, rows, "test"))


def test_a_whole_data_set(storage: MemoryStorage) -> None:
    """Counts, and no problems, with and without the corpus to compare with."""
    report = verify(storage, LAYOUT.uri, [video(name) for name in "abc"])
    assert report.is_whole, report.problems
    assert (report.num_captions, report.num_failures, report.num_videos) == (2, 2, 3)
    assert report.num_commits == 2
    assert verify(storage, LAYOUT.uri + "/") == report
    assert verify(storage, "s3://nothing/here").is_whole


def test_a_missing_video(storage: MemoryStorage) -> None:
    """A gap that no row shows: only the corpus does."""
    (problem,) = verify(storage, LAYOUT.uri, [video("z")]).problems
    assert problem == f"no row for the video {video('z').uri}"


def test_a_missing_clip(storage: MemoryStorage) -> None:
    put(storage, Table.CAPTIONS, 3, caption_of(clip("d", 1, 3)))
    (problem,) = verify(storage, LAYOUT.uri).problems
    assert problem == f"2 of 3 clips of {video('d').uri} have no row"


def test_a_clip_twice(storage: MemoryStorage) -> None:
    put(storage, Table.CAPTIONS, 3, caption_of(clip("a")))
    put(storage, Table.FAILURES, 3, failure_of(clip("b", 0, 2)))
    twice, both = verify(storage, LAYOUT.uri).problems
    assert "twice in captions" in twice
    assert "in captions and failures" in both


def test_a_gap_in_the_parts(storage: MemoryStorage) -> None:
    del storage.objects[LAYOUT.part_uri(Table.CAPTIONS, 1)]
    assert any(
        "part-00000001.parquet is missing" in p for p in verify(storage, LAYOUT.uri).problems
    )


def test_another_digest_and_another_schema(storage: MemoryStorage) -> None:
    row = {**caption_of(clip("d")), "config_digest": "f" * 16}
    put(storage, Table.CAPTIONS, 3, row)
    (problem,) = verify(storage, LAYOUT.uri).problems
    assert "config digest ffff" in problem
    data = encode_part(Table.FAILURES, [failure_of(clip("e"))], "test")
    storage.put(LAYOUT.part_uri(Table.FAILURES, 3), data)
    assert verify(storage, LAYOUT.uri).num_problems == 1


LATER_COLUMNS = (
    "scoring_s",
    "relaxed_share",
    "shadow_equal",
    "shadow_output_tokens",
    "shadow_facts_kept",
    "tokens",
)


def put_table(storage: MemoryStorage, number: int, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.put(LAYOUT.part_uri(Table.CAPTIONS, number), sink.getvalue())


def test_a_part_of_an_older_version(storage: MemoryStorage) -> None:
    """Data sets outlive versions: they are whole, done, and read with None for what is missing."""
    row = caption_of(clip("d"))
    table = pa.Table.from_pylist([row], schema=Table.CAPTIONS.schema)
    put_table(storage, 3, table.drop_columns(list(LATER_COLUMNS)))
    assert verify(storage, LAYOUT.uri).is_whole
    assert read_done(storage, LAYOUT).has_clip(row["video_id"], row["clip_id"])
    *_, read = iter_rows(storage, LAYOUT, Table.CAPTIONS)
    assert read == row | dict.fromkeys(LATER_COLUMNS)
    *_, read = iter_rows(storage, LAYOUT, Table.CAPTIONS, ["scoring_s", "clip_id"])
    assert read == {"scoring_s": None, "clip_id": row["clip_id"]}


def test_a_part_that_lacks_a_required_column_or_has_a_foreign_one(storage: MemoryStorage) -> None:
    """Not an older version: something else."""
    table = pa.Table.from_pylist([caption_of(clip("d"))], schema=Table.CAPTIONS.schema)
    put_table(storage, 3, table.drop_columns(["caption"]))
    assert "has another schema" in verify(storage, LAYOUT.uri).problems[0]
    put_table(storage, 3, table.append_column("mood", pa.array(["good"])))
    assert "has another schema" in verify(storage, LAYOUT.uri).problems[0]


@pytest.mark.parametrize(
    ("column", "value", "claim"),
    [
        ("anchor_tokens", 13, "anchors are among the drafted"),
        ("rejected_by_cause", [("mismatch", 3), ("guard", 2)], "rejects once at most"),
        ("output_tokens", 12, "are the output tokens"),
        ("shifted_tokens", 6, "relaxed and shifted"),
        ("drafted_tokens", 6, "among the drafted"),
        ("target_steps", 5, "every target step"),
        ("accepted_histogram", [2, 0, 0, 2], "every accepted token"),
    ],
)
def test_counters_that_do_not_add_up(column: str, value: Any, claim: str) -> None:
    """One wrong counter, one complaint that names the clip."""
    row = caption_of(clip("a"))
    assert list(counter_problems(row)) == []
    (problem,) = counter_problems({**row, column: value})
    assert claim in problem
    assert clip("a").clip_id in problem

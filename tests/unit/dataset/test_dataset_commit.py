"""Exactly once: what each branch of the commit protocol does, in memory and over HTTP."""

import threading
import time

import pyarrow as pa
import pytest
from dataset_rows import MemoryStorage, caption_of, clip, failure_of, video
from s3_server import Answer, S3Bucket

from pipeline.config import OutputConfig
from pipeline.dataset.commit import (
    Committer,
    DatasetNotEmptyError,
    SecondWriterError,
    UnsafeStorageError,
)
from pipeline.dataset.layout import Layout, Table, part_number
from pipeline.dataset.parts import iter_rows, list_parts, read_done
from pipeline.storage import AlreadyExistsError, Storage, retry, storage_for

LAYOUT = Layout.of("s3://out/captions-of-tonight", "0123456789abcdef")
OUTPUT = OutputConfig(uri="s3://out/captions-of-tonight")


def committer(storage: Storage, run_id: str = "run-1", **options: object) -> Committer:
    output = OUTPUT.model_copy(
        update={name: options.pop(name) for name in list(options) if name.endswith("_per_part")}
    )
    return Committer(storage, LAYOUT, output, run_id, **options)  # type: ignore[arg-type]


def clip_ids(storage: Storage, table: Table, layout: Layout = LAYOUT) -> list[str]:
    return [row["clip_id"] for row in iter_rows(storage, layout, table, ["clip_id"])]


def test_rows_become_numbered_parts(tmp_path: object) -> None:
    """A part at rows_per_part, the rest at close; failures share the number of their commit."""
    storage = MemoryStorage()
    with committer(storage, rows_per_part=2) as writer:
        for name in "ab":
            assert writer.add_caption(caption_of(clip(name)))
        assert writer.counts.commits == 1
        assert writer.add_caption(caption_of(clip("c")))
        assert writer.add_failure(failure_of(None, video("d")))
        assert writer.add_failure(failure_of(clip("e")))
    parts = list_parts(storage, LAYOUT)
    assert (parts.captions, parts.failures) == ((1, 2, 3), (2, 3))
    assert len(clip_ids(storage, Table.CAPTIONS)) == 3
    assert len(clip_ids(storage, Table.FAILURES)) == 2
    assert (writer.counts.captions, writer.counts.failures, writer.counts.commits) == (3, 2, 3)


def test_a_commit_of_failures_only_still_puts_the_fence() -> None:
    """Without captions/part-N two writers of failures would never meet."""
    storage = MemoryStorage()
    with committer(storage) as writer:
        writer.add_failure(failure_of(clip("a")))
    assert list_parts(storage, LAYOUT).captions == (1,)
    assert clip_ids(storage, Table.CAPTIONS) == []


def test_nothing_added_nothing_committed() -> None:
    """A night without new videos leaves no parts."""
    storage = MemoryStorage()
    with committer(storage):
        pass
    assert list_parts(storage, LAYOUT).last == 0


def test_a_clip_that_comes_again_is_dropped_and_counted() -> None:
    """Ray may run a task twice: in the buffer, in a commit, or in an earlier run."""
    storage = MemoryStorage()
    with committer(storage) as writer:
        assert writer.add_caption(caption_of(clip("a", 0, 2)))
        assert not writer.add_caption(caption_of(clip("a", 0, 2)))
        writer.flush()
        assert not writer.add_failure(failure_of(clip("a", 0, 2)))
        assert writer.counts.duplicates == 2
    with committer(storage, "run-2") as writer:
        assert not writer.add_caption(caption_of(clip("a", 0, 2)))
        assert writer.add_caption(caption_of(clip("a", 1, 2)))
    ids = clip_ids(storage, Table.CAPTIONS)
    assert len(ids) == len(set(ids)) == 2
    assert clip_ids(storage, Table.FAILURES) == []


def test_time_commits_without_another_row() -> None:
    """seconds_per_part holds although no row arrives to trigger it."""
    storage = MemoryStorage()
    with committer(storage, seconds_per_part=0.05) as writer:
        writer.add_caption(caption_of(clip("a")))
        deadline = time.monotonic() + 10
        while writer.counts.commits == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert clip_ids(storage, Table.CAPTIONS) == [clip("a").clip_id]


def test_an_error_of_the_timer_reaches_the_caller() -> None:
    """A commit that fails in the background must not look like success."""
    storage = MemoryStorage()
    writer = committer(storage, seconds_per_part=0.05)
    other = committer(storage, "run-2")
    other.add_caption(caption_of(clip("b")))
    other.flush()
    writer.add_caption(caption_of(clip("a")))
    failed = threading.Event()
    for _ in range(1000):
        try:
            writer.flush()
        except SecondWriterError:
            failed.set()
            break
        time.sleep(0.01)
    assert failed.is_set()
    with pytest.raises(SecondWriterError):
        writer.close()


def test_a_paused_writer_stops_between_its_two_puts() -> None:
    """The case that the seal is for: A puts captions-1 and sleeps; B takes over; A wakes up."""
    storage = MemoryStorage()
    taken_over: list[Committer] = []

    def gate(operation: str, uri: str) -> None:
        if operation == "put" and "/failures/" in uri and not taken_over:
            taken_over.append(first)  # not again for B's own puts
            taken_over.append(committer(storage, "run-2"))

    first = committer(storage)
    storage.gate = gate
    first.add_caption(caption_of(clip("a")))
    first.add_failure(failure_of(clip("b")))
    with pytest.raises(SecondWriterError, match=r"failures/part-00000001.*run-2"):
        first.flush()
    second = taken_over[1]
    assert not second.add_caption(caption_of(clip("a")))
    assert second.add_failure(failure_of(clip("b")))
    second.close()
    assert clip_ids(storage, Table.CAPTIONS) == [clip("a").clip_id]
    assert clip_ids(storage, Table.FAILURES) == [clip("b").clip_id]


def test_a_crash_between_the_two_puts_loses_only_what_is_made_again() -> None:
    """captions-1 exists, failures-1 does not: the next run seals it and plans that clip again."""
    storage = MemoryStorage()

    class Killed(BaseException):
        pass

    def gate(operation: str, uri: str) -> None:
        if "/failures/" in uri and operation == "put":
            raise Killed

    writer = committer(storage)
    storage.gate = gate
    writer.add_caption(caption_of(clip("a")))
    writer.add_failure(failure_of(clip("b")))
    with pytest.raises(Killed):
        writer.flush()
    storage.gate = lambda operation, uri: None

    with committer(storage, "run-2") as resumed:
        assert resumed.done.has_clip(video("a").video_id, clip("a").clip_id)
        assert not resumed.done.has_clip(video("b").video_id, clip("b").clip_id)
        resumed.add_failure(failure_of(clip("b")))
    parts = list_parts(storage, LAYOUT)
    assert (parts.captions, parts.failures) == ((1, 2), (1, 2))


def test_a_bad_row_costs_no_fence() -> None:
    """A row that does not fit is found before anything is put, and says which column."""
    storage = MemoryStorage()
    writer = committer(storage)
    row = caption_of(clip("a"))
    row["model_id"] = None
    writer.add_caption(row)
    with pytest.raises(pa.ArrowException, match="model_id"):
        writer.flush()
    assert list_parts(storage, LAYOUT).last == 0
    with pytest.raises(pa.ArrowException):
        writer.add_caption(caption_of(clip("b")))


def test_an_error_inside_the_block_still_commits_what_is_made() -> None:
    """Eight hours of captions are not thrown away because the ninth failed."""
    storage = MemoryStorage()

    def night() -> None:
        with committer(storage) as writer:
            writer.add_caption(caption_of(clip("a")))
            raise RuntimeError("the night went wrong")

    with pytest.raises(RuntimeError, match="night"):
        night()
    assert clip_ids(storage, Table.CAPTIONS) == [clip("a").clip_id]


def test_no_resume_refuses_rows() -> None:
    """--no-resume on an empty data set is fine, on rows it names the folder."""
    storage = MemoryStorage()
    with committer(storage, resume=False) as writer:
        writer.add_caption(caption_of(clip("a")))
    with pytest.raises(DatasetNotEmptyError, match=LAYOUT.uri):
        committer(storage, "run-2", resume=False)


def test_a_storage_that_ignores_conditions_is_refused() -> None:
    """Some S3-like servers accept If-None-Match and overwrite: then nothing is exactly once."""

    class Careless(MemoryStorage):
        def put_if_absent(self, uri: str, data: bytes) -> None:
            self.objects[uri] = data

    with pytest.raises(UnsafeStorageError, match="If-None-Match"):
        committer(Careless())


def test_layout_names() -> None:
    """The names are a public format: numbers sort as text, other objects are no parts."""
    assert LAYOUT.part_uri(Table.FAILURES, 7) == f"{LAYOUT.uri}/failures/part-00000007.parquet"
    assert LAYOUT.run_file_uri("r", "config.yaml") == f"{LAYOUT.uri}/runs/r/config.yaml"
    assert part_number(LAYOUT.part_uri(Table.CAPTIONS, 123_456_789)) == 123_456_789
    assert part_number("s3://b/part-1.parquet") is None
    assert part_number("s3://b/.part-00000001.parquet.tmp") is None


@pytest.fixture
def s3(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> tuple[Storage, Layout]:
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.001)
    layout = Layout.of(s3_bucket.uri("out"), "0123456789abcdef")
    return storage_for(layout.uri, s3_bucket.config), layout


def test_over_http_a_lost_answer_is_not_a_second_writer(
    s3: tuple[Storage, Layout], s3_bucket: S3Bucket
) -> None:
    """The put happened, its answer was lost, the retry meets 412: that part is our own."""
    storage, layout = s3
    with Committer(storage, layout, OUTPUT, "run-1") as writer:
        writer.add_caption(caption_of(clip("a")))
        writer.add_failure(failure_of(clip("b")))
        s3_bucket.server.fail_next("PUT", Answer.LOST, Answer.SLOW_DOWN, Answer.CONFLICT)
    assert s3_bucket.server.faults == []
    assert clip_ids(storage, Table.CAPTIONS, layout) == [clip("a").clip_id]
    assert clip_ids(storage, Table.FAILURES, layout) == [clip("b").clip_id]


def test_over_http_a_second_writer_stops(s3: tuple[Storage, Layout]) -> None:
    """Two jobs on one data set: one goes on, the other says which object it met, and whose."""
    storage, layout = s3
    first = Committer(storage, layout, OUTPUT, "run-1")
    second = Committer(storage, layout, OUTPUT, "run-2")
    first.add_caption(caption_of(clip("a")))
    first.close()
    second.add_caption(caption_of(clip("a")))
    with pytest.raises(
        SecondWriterError, match=r"captions/part-00000001\.parquet was put by run-1"
    ):
        second.close()
    assert clip_ids(storage, Table.CAPTIONS, layout) == [clip("a").clip_id]
    assert read_done(storage, layout).has_video(video("a").video_id)


def test_the_same_run_id_is_still_two_writers() -> None:
    """A job submitted again under its --run-id must not take the other's fence for its own."""
    storage = MemoryStorage()
    first, second = committer(storage, "run-1"), committer(storage, "run-1")
    first.add_failure(failure_of(clip("a")))
    second.add_failure(failure_of(clip("b")))
    first.close()
    with pytest.raises(SecondWriterError):
        second.close()


def test_memory_storage_is_faithful() -> None:
    """The double that the other tests trust refuses a taken name as S3 does."""
    storage = MemoryStorage()
    storage.put_if_absent("s3://b/k", b"1")
    with pytest.raises(AlreadyExistsError):
        storage.put_if_absent("s3://b/k", b"1")

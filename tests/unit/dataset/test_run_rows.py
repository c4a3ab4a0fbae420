"""Guards which rows are a run's, in a data set that many runs have added to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_rows import LABELS, caption_of, clip, failure_of, video

from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import PartList, encode_part
from pipeline.dataset.run_rows import (
    NoSuchRunError,
    iter_run_rows,
    newest_run,
    parts_of_run,
    run_ids,
    run_metrics,
)
from pipeline.storage import Storage, storage_for


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(str(tmp_path), LABELS.config_digest)


@pytest.fixture
def storage(layout: Layout) -> Storage:
    return storage_for(layout.uri, StorageConfig())


def commit(storage: Storage, layout: Layout, run_id: str, *names: str) -> None:
    """A run that captions these and fails at one more."""
    labels = replace(LABELS, run_id=run_id)
    with Committer(storage, layout, OutputConfig(uri="unused", rows_per_part=2), run_id) as writer:
        for name in names:
            writer.add_caption(caption_of(clip(name), labels))
        if names:
            row = failure_of(None, video(f"bad-{names[0]}")) | {"run_id": run_id}
            writer.add_failure(row)


def end(storage: Storage, layout: Layout, run_id: str, **metrics: int) -> None:
    storage.put(layout.run_file_uri(run_id, "metrics.json"), json.dumps(metrics).encode())


def sources(storage: Storage, layout: Layout, table: Table, run_id: str) -> list[str]:
    parts = parts_of_run(storage, layout, run_id)
    rows = iter_run_rows(storage, layout, table, run_id, parts)
    return [row["source_uri"].rpartition("/")[2] for row in rows]


def test_each_run_has_its_own_rows_and_opens_its_own_parts(
    storage: Storage, layout: Layout
) -> None:
    commit(storage, layout, "run-1", "a", "b", "c")
    commit(storage, layout, "run-2", "d")
    assert sources(storage, layout, Table.CAPTIONS, "run-1") == ["a.mp4", "b.mp4", "c.mp4"]
    assert sources(storage, layout, Table.CAPTIONS, "run-2") == ["d.mp4"]
    assert sources(storage, layout, Table.FAILURES, "run-2") == ["bad-d.mp4"]
    assert parts_of_run(storage, layout, "run-1").captions == (1, 2)
    assert parts_of_run(storage, layout, "run-2") == PartList((3,), (3,))
    assert sources(storage, layout, Table.CAPTIONS, "run-3") == []


def test_a_part_whose_writer_is_unknown_is_read_for_its_rows(
    storage: Storage, layout: Layout
) -> None:
    rows = [
        caption_of(clip(name), replace(LABELS, run_id=run_id))
        for name, run_id in (("a", "run-1"), ("b", "run-2"))
    ]
    storage.put(layout.part_uri(Table.CAPTIONS, 1), encode_part(Table.CAPTIONS, rows, ""))
    assert sources(storage, layout, Table.CAPTIONS, "run-2") == ["b.mp4"]


def test_the_newest_run_is_one_that_did_something(storage: Storage, layout: Layout) -> None:
    """A night that found nothing new is not what people want to look at."""
    commit(storage, layout, "20260101-run", "a")
    end(storage, layout, "20260101-run", num_captions=1)
    commit(storage, layout, "20260102-run", "b")
    end(storage, layout, "20260102-run", num_captions=0, num_failures=1)
    commit(storage, layout, "20260103-run")
    end(storage, layout, "20260103-run", num_captions=0, num_failures=0)
    commit(storage, layout, "20260104-run", "c")  # killed
    assert newest_run(storage, layout) == "20260102-run"
    assert run_ids(storage, layout)[0] == "20260104-run"
    assert run_metrics(storage, layout, "20260104-run") is None


def test_of_runs_that_never_ended_the_newest(storage: Storage, layout: Layout) -> None:
    commit(storage, layout, "20260101-run", "a")
    commit(storage, layout, "20260102-run", "b")
    storage.put(layout.run_file_uri("20260102-run", "metrics.json"), b"{half")
    assert newest_run(storage, layout) == "20260102-run"


def test_no_run_at_all(storage: Storage, layout: Layout) -> None:
    with pytest.raises(NoSuchRunError, match="no run has left anything"):
        newest_run(storage, layout)

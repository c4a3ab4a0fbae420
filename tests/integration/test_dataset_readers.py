"""Readers need nothing of ours: the live folder and a snapshot, nested columns and empty parts."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.dataset
import pytest
from dataset_rows import LABELS, caption_of, clip, failure_of, video

from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset.card import write_card
from pipeline.dataset.commit import Committer
from pipeline.dataset.compact import compact
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part
from pipeline.dataset.snapshot import snapshot_layout
from pipeline.records import TokenDecision
from pipeline.storage import storage_for
from tests.ray_driver import ray_driver

CAUSES = {"anchor": 1, "mismatch": 2}
HISTOGRAM = [1, 1, 0, 2]
CLIPS = {spec.clip_id for spec in (clip("a"), clip("b", 0, 2))}
FAILURES = {failure_of(clip("b", 1, 2))["clip_id"], failure_of(None, video("c"))["clip_id"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two captions, two failures; parts without rows first, last and between, in both tables."""
    folder = tmp_path_factory.mktemp("readers")
    layout = Layout.of(str(folder), LABELS.config_digest)
    storage = storage_for(layout.uri, StorageConfig())
    with Committer(storage, layout, OutputConfig(uri=str(folder)), "run-1") as writer:
        writer.add_failure(failure_of(None, video("c")))
        writer.flush()  # captions of commit 1: the fence alone
        decisions = (TokenDecision(4, "relaxed", 5, 0.25, None, " 犬"),)
        writer.add_caption(caption_of(clip("a"), decisions=decisions))
        writer.flush()
        writer.add_caption(caption_of(clip("b", 0, 2)))
        writer.add_failure(failure_of(clip("b", 1, 2)))
    for table in Table:
        storage.put(layout.part_uri(table, 4), encode_part(table, (), "seal"))
    assert compact(storage, layout.uri) is not None
    write_card(storage, layout)
    return layout


@pytest.fixture(params=["live", "snapshot"])
def folder(dataset: Layout, request: pytest.FixtureRequest) -> Path:
    if request.param == "live":
        return Path(dataset.uri)
    return Path(snapshot_layout(dataset, "00000004").uri)


def check_captions(rows: list[dict[str, Any]]) -> None:
    """``rejected_by_cause`` comes as a dict or as pairs, whatever the reader makes of a map."""
    assert {row["clip_id"] for row in rows} == CLIPS
    assert len(rows) == len(CLIPS)
    for row in rows:
        assert dict(row["rejected_by_cause"]) == CAUSES
        assert list(row["accepted_histogram"]) == HISTOGRAM
    (tokens,) = [row["tokens"] for row in rows if row["clip_id"] == clip("a").clip_id]
    assert [token["text"] for token in tokens] == [" 犬"]


def test_pyarrow(folder: Path) -> None:
    check_captions(pyarrow.dataset.dataset(folder / "captions").to_table().to_pylist())
    failures = pyarrow.dataset.dataset(folder / "failures").to_table().to_pylist()
    assert {row["clip_id"] for row in failures} == FAILURES


def test_pandas(folder: Path) -> None:
    check_captions(pd.read_parquet(folder / "captions").to_dict("records"))
    assert set(pd.read_parquet(folder / "failures")["clip_id"]) == FAILURES


def test_duckdb(folder: Path) -> None:
    """Maps and lists are columns to compute with."""
    files = f"'{folder}/captions/*.parquet'"
    check_captions(duckdb.sql(f"SELECT * FROM {files}").df().to_dict("records"))
    computed = duckdb.sql(
        f"SELECT DISTINCT rejected_by_cause['mismatch'], list_sum(accepted_histogram) FROM {files}"
    )
    assert computed.fetchall() == [(2, 4)]
    found = duckdb.sql(f"SELECT clip_id FROM '{folder}/failures/*.parquet'").fetchall()
    assert {clip_id for (clip_id,) in found} == FAILURES


@pytest.mark.slow
def test_ray_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_driver(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    ) as driver:
        check_captions(driver.submit(read_by_ray, folder / "captions").result())
        failures = driver.submit(read_by_ray, folder / "failures").result()
    assert {row["clip_id"] for row in failures} == FAILURES


def read_by_ray(table: Path) -> list[dict[str, Any]]:
    import ray.data

    return list(ray.data.read_parquet(str(table)).take_all())


@pytest.fixture
def load_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`datasets` with a cache of the test's; it looks for no hub."""
    import datasets  # slow to import; a missing one is a failure, not a skip

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def load(*arguments: str, **options: Any) -> Any:
        return datasets.load_dataset(
            *arguments, split="train", cache_dir=str(tmp_path / "cache"), **options
        )

    return load


@pytest.mark.parametrize("prefix", ["", "snapshot_"])
@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face(
    dataset: Layout, load_dataset: Callable[..., Any], prefix: str, streaming: bool
) -> None:
    """By the card's configs alone. It knows no maps, so that column is left out, as is said."""
    rows = list(load_dataset(dataset.uri, f"{prefix}captions", streaming=streaming))
    check_captions([row | {"rejected_by_cause": CAUSES} for row in rows])
    assert "rejected_by_cause" not in rows[0]
    assert rows[0]["created_at"].tzinfo is not None
    failures = load_dataset(dataset.uri, f"{prefix}failures", streaming=streaming)
    assert {row["clip_id"] for row in failures} == FAILURES


def test_hugging_face_loads_captions_by_default(
    dataset: Layout, load_dataset: Callable[..., Any], tmp_path: Path
) -> None:
    """Also of a copy: the card names nothing by where it was made."""
    copy = tmp_path / "copy"
    shutil.copytree(dataset.uri, copy)
    assert {row["clip_id"] for row in load_dataset(str(copy))} == CLIPS

"""The card tells what the metadata says, names every column, and holds no secret."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from dataset_rows import LABELS, caption_of, clip, failure_of
from make_records import caption_record

from pipeline.config import (
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    PromptConfig,
    RunConfig,
    StorageConfig,
)
from pipeline.dataset.card import card, front_matter, write_card
from pipeline.dataset.card_columns import MEANINGS
from pipeline.dataset.card_facts import card_facts
from pipeline.dataset.catalog import PlannedVideo
from pipeline.dataset.commit import Committer
from pipeline.dataset.compact import compact
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.run_folder import write_start
from pipeline.records import ClipSpec, Outcome
from pipeline.run import RunRequest, run_corpus
from pipeline.storage import Storage, storage_for


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(str(tmp_path), LABELS.config_digest)


@pytest.fixture
def storage(layout: Layout) -> Storage:
    return storage_for(layout.uri, StorageConfig())


def run(storage: Storage, layout: Layout, run_id: str, names: str, is_ended: bool = True) -> None:
    """A caption of each video, and one failure."""
    config = RunConfig(
        input=InputConfig(uri="s3://corpus/videos"),
        output=OutputConfig(uri="s3://out"),
        models=ModelsConfig(
            target=ModelConfig(name="/home/somebody/pairs/target", revision="abc123"),
            draft=ModelConfig(name="org/draft"),
        ),
        prompt=PromptConfig(text="Describe | this.\n```\n# See https://me:hunter2@host/x"),
    )
    write_start(storage, layout, run_id, config)
    with Committer(storage, layout, config.output, run_id) as writer:
        for name in names:
            writer.add_caption(caption_of(clip(name)))
        writer.add_failure(failure_of(clip(f"{names}-bad")))
    if is_ended:
        metrics = {
            "num_captions": len(names),
            "num_failures": 1,
            "failures_by_code": {"truncated": 1},
            "elapsed_s": 65.0,
            "target_steps": 4 * len(names),
            "drafted_tokens": 12 * len(names),
            "accepted_tokens": 7 * len(names),
            "relaxed_tokens": 2 * len(names),
            "output_tokens": 11 * len(names),
        }
        storage.put(layout.run_file_uri(run_id, "metrics.json"), json.dumps(metrics).encode())


def written(layout: Layout) -> tuple[dict, str]:
    text = Path(layout.uri, "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_what_a_card_tells(storage: Storage, layout: Layout) -> None:
    """Counts are of all rows, statistics of the runs that ended; a crashed run is named as one."""
    run(storage, layout, "run-1", "ab")
    run(storage, layout, "run-2", "cde", is_ended=False)
    write_card(storage, layout)
    front, body = written(layout)
    assert front["size_categories"] == ["n<1K"]
    assert "license" not in front
    assert [config["config_name"] for config in front["configs"]] == ["captions", "failures"]
    assert front["configs"][0]["default"] is True
    for line in (
        "| captions | 5 |",
        "| failures | 2 (28.57% of all clips) |",
        "| `truncated` | 2 |",
        "| `poison` | 2 |",
        "| mean accepted length | 1.750 drafted tokens a target step |",
        "| relaxed tokens | 4 (28.57% of the accepted) |",
        "| `run-1` | 2 | 1 | 1 min 05 s |",
        "| `run-2` | ? | ? | was killed, or goes on |",
        "| model | `pairs/target`, revision `abc123`, bfloat16 |",
        "    Describe | this.\n    ```\n",
        "import ray.data",
    ):
        assert line in body, line
    assert "hunter2" not in body
    assert "/home/somebody" not in body


def test_a_snapshot_is_told_and_counted_once(storage: Storage, layout: Layout) -> None:
    """Its commits are not read again, and those after it are added."""
    run(storage, layout, "run-1", "ab")
    compact(storage, layout.uri)
    run(storage, layout, "run-2", "c")
    for table in Table:  # were it opened, this would raise
        storage.put(layout.part_uri(table, 1), b"not read")
    facts = card_facts(storage, layout)
    assert facts.num_rows == {Table.CAPTIONS: 3, Table.FAILURES: 2}
    paths = [config["data_files"][0]["path"] for config in front_matter(facts)["configs"]]
    assert "snapshots/00000001/captions/part-*.parquet" in paths
    assert "commits 1 to 1" in card(facts)


def test_an_empty_data_set(storage: Storage, layout: Layout) -> None:
    """A first night that found nothing; files of an older or damaged version are done without."""
    write_card(storage, layout)
    front, body = written(layout)
    assert "configs" not in front
    assert "No run left its configuration." in body
    storage.put(layout.run_file_uri("run-1", "config.yaml"), b"{]")
    storage.put(layout.run_file_uri("run-1", "metrics.json"), b"[1]")
    write_card(storage, layout)
    assert "| `run-1` | ? | ? |" in written(layout)[1]


def test_a_run_ends_with_a_card(tmp_path: Path) -> None:
    """Also one that finds nothing to do."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"x")
    config = RunConfig(
        input=InputConfig(uri=str(tmp_path / "in")),
        output=OutputConfig(uri=str(tmp_path / "out")),
        models=ModelsConfig(target=ModelConfig(name="t"), draft=ModelConfig(name="d")),
    )

    def runner(config: RunConfig, videos: Iterable[PlannedVideo]) -> Iterator[Outcome]:
        for planned in videos:
            yield caption_record(ClipSpec(planned.video, 0, 1, 0.0, 4.0))

    for run_id in ("run-1", "run-2"):
        request = RunRequest(config, LABELS.config_digest, run_id)
        run_corpus(request, runner, lambda line: None)
        front, body = written(request.layout)
        assert front["configs"][0]["config_name"] == "captions"
        assert "| captions | 1 |" in body
        assert f"| `{run_id}` |" in body


def test_every_column_has_a_meaning() -> None:
    """And none that is gone keeps one."""
    names = {name for table in Table for name in table.schema.names}
    assert set(MEANINGS) == names

"""Rows: complete, typed, and readable by what people read Parquet with."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
from dataset_rows import CREATED_AT, LABELS, caption_of, clip, failure_of, record, video

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
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows
from pipeline.dataset.schema import CAPTIONS, FAILURES, RunLabels, caption_row
from pipeline.records import (
    ClipSpec,
    PlainComparison,
    ShadowComparison,
    TokenDecision,
    VideoObject,
)
from pipeline.storage import storage_for


def written(tmp_path: Path) -> Layout:
    layout = Layout.of(str(tmp_path), LABELS.config_digest)
    storage = storage_for(layout.uri, StorageConfig())
    output = OutputConfig(uri=str(tmp_path), rows_per_part=2)
    with Committer(storage, layout, output, "run-1") as writer:
        plain = PlainComparison(equal=True, prefill_s=0.2, decode_s=1.5, output_tokens=11)
        writer.add_caption(caption_of(clip("a"), plain=plain, text="Ein Hund, 犬 🐕"))
        writer.add_failure(failure_of(clip("b", 0, 2)))
        writer.add_caption(caption_of(clip("b", 1, 2)))
        writer.add_failure(failure_of(None, video("c")))
    return layout


def test_rows_have_exactly_the_columns_of_the_schema() -> None:
    """A column that a converter forgets would be silently null."""
    assert set(caption_of(clip("a"))) == set(CAPTIONS.names)
    assert set(failure_of(clip("a"))) == set(FAILURES.names)
    assert set(failure_of(None, video("a"))) == set(FAILURES.names)


def test_a_token_sample_and_a_shadow_make_the_round_trip(tmp_path: Path) -> None:
    """Nested rows keep their types and their missing scores; most captions have none of it."""
    decisions = (
        TokenDecision(3, "correction", 3, None, None, "Ein"),
        TokenDecision(4, "relaxed", 5, 0.25, 0.5, " 犬"),
    )
    shadow = ShadowComparison(equal=False, output_tokens=12, facts_kept=0.75)
    row = caption_of(clip("a"), decisions=decisions, shadow=shadow, relaxed_share=0.7)
    layout = Layout.of(str(tmp_path), LABELS.config_digest)
    storage = storage_for(layout.uri, StorageConfig())
    with Committer(storage, layout, OutputConfig(uri=str(tmp_path)), "run-1") as writer:
        writer.add_caption(row)
        writer.add_caption(caption_of(clip("b")))
    first, second = iter_rows(storage, layout, Table.CAPTIONS)
    assert first == row
    assert (first["shadow_equal"], first["shadow_output_tokens"]) == (False, 12)
    assert (first["shadow_facts_kept"], second["shadow_facts_kept"]) == (0.75, None)
    assert (first["relaxed_share"], first["scoring_s"]) == (0.7, 0.01)
    assert first["tokens"] == [
        {
            "token_id": 3,
            "text": "Ein",
            "kind": "correction",
            "target_token_id": 3,
            "anchor_score": None,
            "anchor_rank": None,
        },
        {
            "token_id": 4,
            "text": " 犬",
            "kind": "relaxed",
            "target_token_id": 5,
            "anchor_score": 0.25,
            "anchor_rank": 0.5,
        },
    ]
    assert second["tokens"] is second["shadow_equal"] is second["relaxed_share"] is None


def test_a_round_trip_keeps_every_value(tmp_path: Path) -> None:
    """What is written is what is read: types, nulls, microseconds, lists and maps."""
    layout = written(tmp_path)
    storage = storage_for(layout.uri, StorageConfig())
    first, second = iter_rows(storage, layout, Table.CAPTIONS)
    plain = PlainComparison(equal=True, prefill_s=0.2, decode_s=1.5, output_tokens=11)
    assert first == caption_of(clip("a"), plain=plain, text="Ein Hund, 犬 🐕")
    assert second == caption_of(clip("b", 1, 2))
    assert second["plain_equal"] is None
    of_clip, of_video = iter_rows(storage, layout, Table.FAILURES)
    assert of_clip == failure_of(clip("b", 0, 2))
    assert (of_video["clip_index"], of_video["num_clips"], of_video["start_s"]) == (None,) * 3
    assert of_video["created_at"] == datetime(2026, 11, 22, 20, 0, 0, 123456, tzinfo=UTC)


def test_other_programs_read_the_folders(tmp_path: Path) -> None:
    """pyarrow and pandas see one table per folder, with no knowledge of ours."""
    layout = written(tmp_path)
    captions, failures = layout.table_uri(Table.CAPTIONS), layout.table_uri(Table.FAILURES)
    table = pyarrow.dataset.dataset(captions).to_table()
    assert table.schema.equals(CAPTIONS)
    assert table.num_rows == 2
    frame = pd.read_parquet(failures)
    assert sorted(frame["code"]) == ["truncated"] * 2


def test_a_model_folder_is_named_without_its_machine() -> None:
    """The data set may be published, paths of a home not; and a draft that is idle is no label."""
    config = RunConfig(
        input=InputConfig(uri="in"),
        output=OutputConfig(uri="out"),
        models=ModelsConfig(
            target=ModelConfig(name="/home/me/assets/reference_pair/target"),
            draft=ModelConfig(name="org/draft"),
        ),
    )
    labels = RunLabels.of(config, "d", "r")
    assert (labels.model_id, labels.draft_model_id) == ("reference_pair/target", "org/draft")
    plain = SpeculationConfig(method=SpeculationMethod.NONE)
    assert (
        RunLabels.of(config.model_copy(update={"speculation": plain}), "d", "r").draft_model_id
        is None
    )


def test_parts_are_zstd(tmp_path: Path) -> None:
    """Captions are text: uncompressed parts would be several times as large."""
    layout = written(tmp_path)
    part = pa.parquet.ParquetFile(layout.part_uri(Table.CAPTIONS, 1))
    column = part.schema_arrow.names.index("caption")
    assert part.metadata.row_group(0).column(column).compression == "ZSTD"


def test_a_file_name_that_is_not_utf8_gets_a_row() -> None:
    """Linux allows such names; one of them must not end the night. The id is of the real name."""
    name = b"/videos/caf\xe9.mp4".decode("utf-8", "surrogateescape")
    source = VideoObject(name, "e", 1)
    row = caption_row(record(ClipSpec(source, 0, 1, 0.0, 1.0)), LABELS, CREATED_AT)
    assert row["source_uri"] == "/videos/caf\\xe9.mp4"
    assert row["video_id"] == source.video_id
    pa.Table.from_pylist([row], schema=CAPTIONS)

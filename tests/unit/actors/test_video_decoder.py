"""The decode actor: it reads its rows of the plan itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import wire
from actors.errors import WorkerError
from actors.video_decoder import VideoDecoder
from pipeline.config import (
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    SpeculationMethod,
)
from pipeline.dataset.done import DoneClips
from pipeline.dataset.layout import Layout
from pipeline.dataset.plan import Plan
from pipeline.dataset.plan_parts import PlanSlice, write_plan
from pipeline.storage import storage_for


def config_of(tmp_path: Path) -> RunConfig:
    return RunConfig(
        input=InputConfig(uri=str(tmp_path / "in")),
        output=OutputConfig(uri=str(tmp_path / "out")),
        models=ModelsConfig(target=ModelConfig(name="x")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
    )


def test_each_slice_is_decoded_once(tmp_path: Path) -> None:
    """Here into failures, as the files are empty."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.mp4").touch()
    config = config_of(tmp_path)
    layout = Layout.of(config.output.uri, "0" * 16)
    storage = storage_for(layout.uri, config.storage)
    plan = write_plan(storage, layout, "r", Plan.of(config, DoneClips(), storage, layout))
    decoder = VideoDecoder(config)
    tables = [wire.pack([rows]) for rows in plan.slices(2)]
    outcomes = [list(wire.unpack(outcome)) for slices in tables for outcome in decoder(slices)]
    assert [Path(failure.video.uri).name for (failure,) in outcomes] == ["0.mp4", "1.mp4", "2.mp4"]
    assert {failure.code for (failure,) in outcomes} == {"empty"}


def test_a_plan_on_a_disk_of_another_node_is_named(tmp_path: Path) -> None:
    """Not a failure row for each video: nothing can be read."""
    decoder = VideoDecoder(config_of(tmp_path))
    rows = PlanSlice(str(tmp_path / "out/plan/part-00000001.parquet"), 0, 1)
    with pytest.raises(WorkerError, match="a local output folder must be one that every node sees"):
        list(decoder(wire.pack([rows])))

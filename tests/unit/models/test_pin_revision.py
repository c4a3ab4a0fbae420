"""A pinned model folder means one thing wherever the job was started."""

from pathlib import Path

import pytest

from pipeline.config import ModelConfig
from pipeline.models.checkpoint import pin_revision


def test_a_folder_is_pinned_by_its_absolute_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~/pair`, `pair` and `./pair` are one model: else one model has several digests."""
    folder = tmp_path / "pair"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    pinned = [pin_revision(ModelConfig(name=name)) for name in ("~/pair", "pair", "./pair/")]
    assert {model.name for model in pinned} == {str(folder)}
    assert len({model.revision for model in pinned}) == 1

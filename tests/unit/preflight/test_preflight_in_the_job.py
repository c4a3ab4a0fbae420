"""The job around it: a dry run shows the table, a run that can't fit stops before anything."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import caption_corpus

TOO_FEW = ("--tensor-parallel-size", "2", "--cluster.captioner-gpus", "2")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the job of a recipe on one file; nothing captions, and no model is pinned."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.mp4").write_bytes(b"x")
    monkeypatch.setattr(caption_corpus, "pin_revision", lambda model, storage: model)
    monkeypatch.setattr(caption_corpus, "_runner", lambda options: lambda config, videos: [])

    def run(recipe: str, *arguments: str) -> int:
        where = ("--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
        return caption_corpus.main(["--recipe", recipe, *where, *arguments])

    return run


def test_a_dry_run_shows_the_table(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("qwen2.5-vl-72b", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "Will it fit?" in out
    assert "it fits, with 8 of 8 rows" in out
    assert "would caption 1 videos" in out


def test_a_run_that_can_not_fit_is_stopped(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As a wrong configuration: before a folder is made, or a GPU taken."""
    assert job("qwen2.5-vl-72b", *TOO_FEW) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: the run does not fit: rank 0 holds 87.1 GiB")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert job("qwen2.5-vl-72b", *TOO_FEW, "--dry-run") == 2
    assert "it does not fit" in capsys.readouterr().out


def test_it_can_be_switched_off(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("qwen2.5-vl-72b", *TOO_FEW, "--no-preflight") == 0
    assert job("qwen2.5-vl-72b", "--dry-run", "--no-preflight") == 0
    assert "Will it fit" not in capsys.readouterr().out


def test_a_run_that_fits_says_nothing(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("qwen2.5-vl-72b") == 0
    assert "GiB" not in capsys.readouterr().out


def test_a_run_on_cpu_is_not_held_up(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """However large the model; a dry run still shows what it takes."""
    assert job("qwen2.5-vl-72b", *TOO_FEW[:2], "--cluster.captioner-gpus=0",
               "--models.device=cpu") == 0  # fmt: skip
    assert "GiB" not in capsys.readouterr().out
    assert job("reference", "--dry-run") == 0
    assert "of this host's memory" in capsys.readouterr().out


def test_a_model_that_is_not_known_stops_nothing(
    job: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert job("qwen2.5-vl-72b", "--model", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "whether the run fits can't be reckoned: " in out
    assert "'bert'" in out

"""Guards what the calibration job says when it can't run: one line that names the remedy."""

import pytest

from jobs import calibrate
from pipeline.sample_world.corpus import CorpusPlan, write_corpus


@pytest.fixture
def fails(capsys):
    """Run the job, which fails; its exit code and its one line."""

    def run(*arguments):
        code = calibrate.main(["--recipe", "reference", *map(str, arguments)])
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        (line,) = lines
        return code, line

    return run


def test_a_misspelt_flag_is_a_config_error(fails, tmp_path):
    code, line = fails("--output", tmp_path / "a.json", "--input", tmp_path, "--batch-siz", "3")
    assert code == calibrate.EXIT_CONFIG
    assert "batch-siz" in line


def test_a_folder_that_is_not_there_is_told_before_anything_runs(fails, tmp_path):
    missing = tmp_path / "no"
    code, line = fails("--output", missing / "a.json", "--input", tmp_path)
    assert code == calibrate.EXIT_CONFIG
    assert str(missing) in line


def test_too_few_clips_name_how_many_there_are_and_what_to_do(fails, tmp_path):
    list(write_corpus(tmp_path, CorpusPlan(3, num_damaged=1)))
    code, line = fails(
        "--output", tmp_path / "a.json", "--input", tmp_path / "videos",
        "--num-clips", 2, "--num-report-clips", 2,
    )  # fmt: skip
    assert code == calibrate.EXIT_FAILED
    assert "2 + 1 clips" in line
    assert "--num-report-clips" in line
    assert not (tmp_path / "a.json").exists()


def test_a_calibration_is_of_two_models(fails, tmp_path):
    code, line = fails(
        "--output", tmp_path / "a.json", "--input", tmp_path, "--models.draft", "None"
    )  # fmt: skip
    assert code == calibrate.EXIT_CONFIG
    assert "models.draft" in line

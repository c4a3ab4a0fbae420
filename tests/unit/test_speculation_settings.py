"""Settings of speculative decoding that must fit together, and the calibration that they name."""

from pathlib import Path

import pytest

from pipeline.config_errors import ConfigError
from pipeline.settings import load_run_config
from tests.calibration_files import write_calibration

NEEDED = ["--recipe", "reference", "--input", "in", "--output", "out"]


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(list(argv))
    return str(caught.value)


def test_a_calibration_is_read_and_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captioners may run in another folder; one of a method that uses none is not looked at."""
    path = write_calibration(tmp_path / "pair.json")
    monkeypatch.chdir(tmp_path)
    config = load_run_config([*NEEDED, "--calibration", "pair.json"])
    assert config.speculation.calibration == path
    unused = [*NEEDED, "--calibration", "absent.json", "--speculation.method", "none"]
    assert load_run_config(unused).speculation.calibration == "absent.json"


def test_a_calibration_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    """Found before a cluster starts: the file, where it was named, and what writes one."""
    missing = tmp_path / "pair.json"
    text = error_of(*NEEDED, "--calibration", str(missing))
    assert f"speculation.calibration (in the command line): {missing}" in text
    assert "jobs/calibrate.py writes one" in text
    missing.write_text('{"layer": 3}')
    file = tmp_path / "night.yaml"
    file.write_text(f"recipe: reference\nspeculation: {{calibration: {missing}}}\n")
    text = error_of("--config", str(file), *NEEDED[2:])
    assert f"(in {file})" in text
    assert "can't be read as a calibration" in text


def test_a_recipe_names_its_calibration_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like its model folders: found from any current directory."""
    write_calibration(tmp_path / "assets" / "pair.json")
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "tuned.yaml").write_text(
        "models: {target: {name: org/t}, draft: {name: org/d}}\n"
        "speculation: {method: safe, calibration: assets/pair.json}\n"
    )
    monkeypatch.setattr("pipeline.settings_layers.PROJECT_ROOT", tmp_path)
    monkeypatch.setattr("pipeline.settings_layers.RECIPES", recipes)
    config = load_run_config(["--recipe", "tuned", "--input", "in", "--output", "out"])
    assert config.speculation.calibration == str(tmp_path / "assets" / "pair.json")


def test_a_drafter_without_a_model_needs_no_draft() -> None:
    """And the run's rows and digest name none, even if one is configured."""
    ngram = ["--speculation.drafting.drafter", "ngram"]
    itself = [*("--speculation.drafting.drafter", "self"), *SELF_KEEPS]
    for flags in (ngram, itself):
        config = load_run_config([*NEEDED, *flags])
        assert config.models.draft is not None
        assert config.effective_draft is None
        assert load_run_config([*NEEDED, *flags, "--models.draft", "None"]).models.draft is None


SELF_KEEPS = ("--speculation.drafting.keep-ratio", "0.1")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"drafting.drafter": "self"},
            ("drafter = self", "--speculation.drafting.keep-ratio below 1"),
        ),
        (
            {"drafting.prompt-lookup-max": "2", "drafting.prompt-lookup-min": "3"},
            ("prompt_lookup_min 3 > prompt_lookup_max 2", "--speculation.drafting.prompt-lookup"),
        ),
        (
            {"method": "safe", "anchors.score": "lexicon_cosine", "calibration": "None"},
            ("anchors.score = lexicon_cosine", "--calibration", "jobs/calibrate.py"),
        ),
        (
            {"method": "paper", "anchors.quantile-scope": "calibrated", "calibration": "None"},
            ("quantile_scope = calibrated", "--calibration", "or running"),
        ),
    ],
)
def test_settings_that_make_no_sense_together(
    flags: dict[str, str], expected: tuple[str, ...]
) -> None:
    """Each says what is wrong and by which flag to mend it."""
    text = error_of(*NEEDED, *(f"--speculation.{key}={value}" for key, value in flags.items()))
    for part in expected:
        assert part in text


def test_anchors_of_other_methods_are_not_judged() -> None:
    """A method switched back to exact by a flag must not ask for the files of the other."""
    flags = ["--speculation.anchors.score", "lexicon", "--speculation.method"]
    for method in ("exact", "fly", "none"):
        assert load_run_config([*NEEDED, *flags, method]).speculation.method == method

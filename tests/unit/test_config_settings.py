"""Layers, precedence and error texts of the configuration, and the recipes that are shipped."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pipeline.config import EndpointConfig, RunConfig, SpeculationMethod
from pipeline.config_errors import ConfigError
from pipeline.reference_pair.architecture import DESCRIBE_PROMPTS
from pipeline.reference_pair.frames import VIDEO_CONFIG
from pipeline.settings import (
    PROJECT_ROOT,
    SHORT_FLAGS,
    JobOptions,
    load_run_config,
    parse_command_line,
    recipe_names,
)

NEEDED = ["--recipe", "reference", "--input", "in", "--output", "out"]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LVSPEC_SPECULATION__METHOD", raising=False)


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_command_line(list(argv))
    return str(caught.value)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "night.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_valid_config(name: str) -> None:
    """A recipe with a typo would only be found by who needs it at night."""
    config = load_run_config(["--recipe", name, "--input", "s3://b/in", "--output", "s3://b/out"])
    assert config.speculation.method is SpeculationMethod.EXACT
    assert config.models.draft is not None


def test_the_reference_recipe_names_the_embedded_pair() -> None:
    """Independent of the current directory: the pair lies beside the code."""
    config = load_run_config(NEEDED)
    assert config.models.target.name == str(PROJECT_ROOT / "assets/reference_pair/target")
    assert config.video.frame_size.fixed_px == (60, 60)


def test_the_reference_recipe_asks_what_the_pair_was_trained_on() -> None:
    """Other frames or another prompt than in training would make a good pair look bad."""
    config = load_run_config(NEEDED)
    assert config.video == VIDEO_CONFIG
    assert config.prompt.text == DESCRIBE_PROMPTS[0]
    assert config.prompt.system is None


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line > environment > file > recipe > defaults, key by key."""
    file = write(
        tmp_path,
        "recipe: reference\ninput: {uri: from-file}\noutput: {uri: out}\n"
        "speculation: {num_speculative_tokens: 5}\ngeneration: {max_tokens: 100}\n",
    )
    config = load_run_config(["--config", file])
    assert config.generation.max_tokens == 100  # file over recipe (256)
    assert config.video.sampling.num_frames == 8  # recipe over default (64)
    assert config.failures.max_share == 0.10  # default
    monkeypatch.setenv("LVSPEC_SPECULATION__NUM_SPECULATIVE_TOKENS", "6")
    monkeypatch.setenv("LVSPEC_GENERATION__MAX_TOKENS", "200")
    config = load_run_config(["--config", file, "--generation.max-tokens", "300"])
    assert config.speculation.num_speculative_tokens == 6
    assert config.generation.max_tokens == 300
    assert config.input.uri == "from-file"


def test_short_flags_mean_their_dotted_flags() -> None:
    """--model and --models.target.name are one flag, with = or without."""
    values = {
        "--limit": "3",
        "--endpoint-url": "http://localhost:9000",
        "--dtype": "float16",
        "--num-speculative-tokens": "7",
        "--tensor-parallel-size": "2",
        "--calibration": "None",
        "--max-tokens": "9",
        "--max-num-seqs": "2",
    }
    short = [f"{flag}={values.get(flag, 'x')}" for flag in SHORT_FLAGS]
    long = [word for flag in SHORT_FLAGS for word in (SHORT_FLAGS[flag], values.get(flag, "x"))]
    assert load_run_config(["--recipe", "reference", *short]) == load_run_config(
        ["--recipe", "reference", *long]
    )


def test_lists_nulls_and_pairs_on_the_command_line() -> None:
    """What is not a plain scalar has a spelling too."""
    config = load_run_config(
        [
            *NEEDED,
            *("--input.extensions", ".mp4,.mkv"),
            *("--video.frame-size.fixed-px", "30,40"),
            *("--models.draft", "None", "--speculation.method", "none"),
        ]
    )
    assert config.input.extensions == (".mp4", ".mkv")
    assert config.video.frame_size.fixed_px == (30, 40)
    assert config.models.draft is None


def test_the_environment_is_spelt_like_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists with commas and None for not set, as --help says; JSON as well."""
    monkeypatch.setenv("LVSPEC_INPUT__EXTENSIONS", ".mp4,.mkv")
    monkeypatch.setenv("LVSPEC_VIDEO__FRAME_SIZE__FIXED_PX", "30,40")
    monkeypatch.setenv("LVSPEC_MODELS__DRAFT", "None")
    monkeypatch.setenv("LVSPEC_SPECULATION", '{"method": "none"}')
    config = load_run_config(NEEDED)
    assert config.input.extensions == (".mp4", ".mkv")
    assert config.video.frame_size.fixed_px == (30, 40)
    assert config.models.draft is None
    monkeypatch.setenv("LVSPEC_INPUT__EXTENSIONS", '[".ts"]')
    assert load_run_config(NEEDED).input.extensions == (".ts",)
    monkeypatch.setenv("LVSPEC_INPUT__EXTENSIONS", ".TS")
    assert "in the environment" in error_of(*NEEDED)


@pytest.mark.parametrize("flag", ["--input", "--output"])
@pytest.mark.parametrize("uri", ["", " ", "file://", "s3://", "s3:///captions", "s3:/captions"])
def test_a_uri_without_a_place_is_an_error(flag: str, uri: str) -> None:
    """`--output s3://$BUCKET/captions` with BUCKET unset must not write into a folder `s3:`."""
    text = error_of(*NEEDED, f"{flag}={uri}")
    assert f"{flag[2:]}.uri = " in text
    assert "s3://bucket/prefix is wanted" in text


def test_every_key_is_described() -> None:
    """Descriptions are the reference documentation, and --help."""
    sections: list[type[BaseModel]] = [JobOptions, RunConfig, EndpointConfig]
    for section in sections:
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            kinds = (field.annotation, *get_args(field.annotation))
            sections += [
                kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
    assert len(sections) > 15


def test_another_model_does_not_inherit_a_revision(tmp_path: Path) -> None:
    """--draft-model on top of a pinned pair must not ask for the old model's commit."""
    file = write(
        tmp_path,
        "input: {uri: a}\noutput: {uri: b}\nmodels:\n"
        "  target: {name: org/t, revision: aaa}\n  draft: {name: org/d, revision: bbb}\n",
    )
    config = load_run_config(["--config", file, "--draft-model", "org/other"])
    assert config.models.draft is not None
    assert (config.models.draft.revision, config.models.target.revision) == (None, "aaa")


def test_an_unknown_key_is_named_with_its_file_and_what_is_meant(tmp_path: Path) -> None:
    """The commonest mistake, in each of its layers."""
    file = write(tmp_path, "recipe: reference\nspeculation: {num_speculative_token: 5}\n")
    text = error_of("--config", file, "--input", "a", "--output", "b")
    assert text == (
        "unknown key speculation.num_speculative_token "
        f"(did you mean speculation.num_speculative_tokens?), in {file}"
    )
    file = write(tmp_path, "recipe: reference\nnum_frames: 5\n")
    assert "did you mean video.sampling.num_frames?" in error_of("--config", file)
    assert "did you mean --max-tokens?" in error_of(*NEEDED, "--max-token", "3")
    assert "did you mean --speculation.method?" in error_of(*NEEDED, "--speculation.methd", "none")
    assert "did you mean reference?" in error_of("--recipe", "refrence")


def test_an_unknown_environment_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable would otherwise be a silent no-op."""
    monkeypatch.setenv("LVSPEC_SPECULATON__METHOD", "none")
    assert "LVSPEC_SPECULATON__METHOD (did you mean LVSPEC_SPECULATION?)" in error_of(*NEEDED)
    monkeypatch.delenv("LVSPEC_SPECULATON__METHOD")
    monkeypatch.setenv("LVSPEC_SPECULATION__METHD", "none")
    assert "unknown key speculation.methd" in error_of(*NEEDED)
    assert "in the environment" in error_of(*NEEDED)


def test_a_wrong_value_is_named_with_key_value_and_expectation(tmp_path: Path) -> None:
    """Key, value, what was expected, and where it came from."""
    text = error_of(*NEEDED, "--num-speculative-tokens", "six")
    assert "speculation.num_speculative_tokens = 'six'" in text
    assert "valid integer" in text
    assert "in the command line" in text
    file = write(tmp_path, "recipe: reference\nvideo: {sampling: {policy: randomly}}\n")
    text = error_of("--config", file, "--input", "a", "--output", "b")
    assert "video.sampling.policy = 'randomly'" in text
    assert "'uniform' or 'fps'" in text
    assert f"in {file}" in text


def test_what_is_missing_is_named() -> None:
    """The first thing a new user meets."""
    text = error_of("--recipe", "reference")
    assert "input.uri is missing: set it in a config file, or by --input.uri" in text
    assert "output.uri is missing" in text
    assert "models.target.name is missing" in error_of("--input", "a", "--output", "b")


def test_rules_over_several_keys(tmp_path: Path) -> None:
    """Speculation needs a draft; pixel bounds are ordered; URLs carry no credentials."""
    assert "needs a draft model" in error_of(*NEEDED, "--models.draft", "None")
    bounds = ["--recipe", "qwen2.5-vl-32b", "--video.frame-size.min-pixels", "9000000"]
    assert "min_pixels 9000000 >" in error_of(*NEEDED[2:], *bounds)
    text = error_of(*NEEDED, "--endpoint-url", "https://me:hunter2@host")
    assert "credentials do not belong" in text
    assert "hunter2" not in text
    assert "http" in error_of(*NEEDED, "--endpoint-url", "host:9000")
    assert "suffix" in error_of(*NEEDED, "--input.extensions", "mp4")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[1, 2]", "must hold sections"), ("a: [", "is not YAML"), (None, "cannot read")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str | None, reason: str) -> None:
    """Not a traceback."""
    file = write(tmp_path, text) if text else str(tmp_path / "missing.yaml")
    message = error_of("--config", file)
    assert reason in message
    assert file in message


def test_job_options_are_apart_from_the_config() -> None:
    """Switches of the job change no caption, so they are not in RunConfig."""
    assert parse_command_line(NEEDED).options.resume
    command = parse_command_line(
        [*NEEDED, "--dry-run", "--no-resume", "--runner", "local", "--run-id", "r-1"]
    )
    assert command.config == load_run_config(NEEDED)
    options = command.options
    assert (options.dry_run, options.resume, options.runner) == (True, False, "local")
    assert "run_id = '../x'" in error_of(*NEEDED, "--run-id", "../x")


def test_help_is_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags with units and defaults, short spellings, recipes; no internal names."""
    with pytest.raises(SystemExit) as caught:
        parse_command_line(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for expected in (
        "--speculation.num-speculative-tokens",
        "{none,exact",
        "--no-resume",
        "qwen2.5-vl-72b",
        "--draft-model",
        "--calibration",
        "{none,exact,paper,safe,fly}",
        "--output.token-sample-share",
        "--speculation.anchors.relaxed-share",
        "LVSPEC_SPECULATION__METHOD",
        "precedence",
    ):
        assert expected in text
    assert "pydantic" not in text


def test_a_recipe_on_the_command_line_wins_over_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("recipe: qwen2.5-vl-72b\n")
    config = load_run_config(["--config", str(file), *NEEDED, "--recipe", "reference"])
    assert config.models.target.name.endswith("assets/reference_pair/target")

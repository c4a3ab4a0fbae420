"""One recipe drives the job and the endpoint; what is the other's alone is ignored."""

from pathlib import Path

import pytest

from pipeline.config import CaptioningConfig, RunConfig
from pipeline.config_digest import config_digest
from pipeline.config_errors import ConfigError
from pipeline.endpoint_settings import (
    SHORT_FLAGS,
    EndpointOptions,
    endpoint_config_of,
    load_endpoint_config,
    parse_endpoint_command_line,
)
from pipeline.settings import load_run_config, recipe_names

JOB = ["--input", "in", "--output", "out"]
BOTH = (
    "recipe: reference\n"
    "input: {uri: s3://b/in}\noutput: {uri: s3://b/out}\nfailures: {max_share: 0.5}\n"
    "serving: {port: 9000, replicas: {max_replicas: 3}}\n"
    "generation: {max_tokens: 100}\n"
)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "both.yaml"
    path.write_text(text)
    return str(path)


def error_of(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_endpoint_config(list(argv))
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_means_the_same_to_both(name: str) -> None:
    """Else an endpoint would say of a video what the nightly data set doesn't."""
    endpoint = load_endpoint_config(["--recipe", name])
    run = load_run_config(["--recipe", name, *JOB])
    for section in CaptioningConfig.model_fields:
        assert getattr(endpoint, section) == getattr(run, section)


def test_one_file_drives_both(tmp_path: Path) -> None:
    """Each takes its own sections and what they share."""
    file = write(tmp_path, BOTH)
    endpoint = load_endpoint_config(["--config", file])
    assert (endpoint.serving.port, endpoint.serving.replicas.max_replicas) == (9000, 3)
    run = load_run_config(["--config", file])
    assert (run.input.uri, run.failures.max_share) == ("s3://b/in", 0.5)
    assert endpoint.generation == run.generation
    assert run.generation.max_tokens == 100


def test_serving_is_no_part_of_a_digest(tmp_path: Path) -> None:
    """A port that is changed must not caption a corpus again."""
    with_serving = load_run_config(["--config", write(tmp_path, BOTH)])
    (tmp_path / "other").mkdir()
    without = load_run_config(
        ["--config", write(tmp_path / "other", BOTH.replace("port: 9000", "port: 9001"))]
    )
    assert config_digest(with_serving) == config_digest(without)
    assert "serving" not in RunConfig.model_fields


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line > environment > file > recipe > defaults, as for the job."""
    file = write(tmp_path, BOTH)
    monkeypatch.setenv("LVSPEC_SERVING__PORT", "9001")
    monkeypatch.setenv("LVSPEC_SERVING__VIDEO_ACCESS__ALLOWED_DOMAINS", "a.org,*.b.org")
    config = load_endpoint_config(["--config", file, "--max-tokens", "7"])
    assert config.serving.port == 9001
    assert config.serving.video_access.allowed_domains == ("a.org", "*.b.org")
    assert config.generation.max_tokens == 7
    assert config.video.sampling.num_frames == 8
    assert load_endpoint_config(["--config", file, "--port", "9002"]).serving.port == 9002


def test_the_environment_of_one_does_not_trouble_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They run on the same hosts; API keys are no configuration at all."""
    monkeypatch.setenv("LVSPEC_INPUT__URI", "s3://b/in")
    monkeypatch.setenv("LVSPEC_OUTPUT__URI", "s3://b/out")
    monkeypatch.setenv("LVSPEC_SERVING__PORT", "9001")
    monkeypatch.setenv("LVSPEC_API_KEYS", "secret")
    assert load_endpoint_config(["--recipe", "reference"]).serving.port == 9001
    assert load_run_config(["--recipe", "reference"]).input.uri == "s3://b/in"
    monkeypatch.setenv("LVSPEC_API_KEYZ", "secret")
    assert "unknown environment variable LVSPEC_API_KEYZ" in error_of("--recipe", "reference")


def test_mistakes_are_named(tmp_path: Path) -> None:
    """As in the job's files: key, place, and what is meant."""
    file = write(tmp_path, "recipe: reference\nserving: {prt: 9000}\n")
    assert error_of("--config", file) == (
        f"unknown key serving.prt (did you mean serving.port?), in {file}"
    )
    assert "--serving.port" in error_of("--recipe", "reference", "--serving.prt", "1")
    assert "serving.port = '0'" in error_of("--recipe", "reference", "--port", "0")
    assert "unrecognized" in error_of("--recipe", "reference", "--input", "in")
    assert "models.target.name is missing" in error_of("--port", "8000")


def test_short_flags_mean_their_dotted_flags() -> None:
    values = {
        "--port": "9",
        "--allowed-local-media-path": "/videos",
        "--dtype": "float16",
        "--endpoint-url": "http://localhost:9000",
        "--num-speculative-tokens": "7",
        "--tensor-parallel-size": "2",
        "--calibration": "None",
        "--max-tokens": "9",
        "--max-num-seqs": "2",
    }
    short = [f"{flag}={values.get(flag, 'x')}" for flag in SHORT_FLAGS]
    long = [word for flag in SHORT_FLAGS for word in (SHORT_FLAGS[flag], values.get(flag, "x"))]
    recipe = ["--recipe", "reference"]
    assert load_endpoint_config([*recipe, *short]) == load_endpoint_config([*recipe, *long])


def test_options_are_apart_from_the_config() -> None:
    command = parse_endpoint_command_line(["--recipe", "reference", "--runner", "local"])
    assert command.options == EndpointOptions(runner="local")
    assert command.config == load_endpoint_config(["--recipe", "reference"])


def test_every_option_is_described() -> None:
    """--help is the reference; the sections are held by test_config_settings.py."""
    for name, field in EndpointOptions.model_fields.items():
        assert field.description, name


def test_help_is_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_endpoint_command_line(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for expected in ("serve_captions.py", "--serving.video-access.allowed-domains", "--port"):
        assert expected in text
    for foreign in ("--input", "--failures", "pydantic"):
        assert foreign not in text


def test_a_serve_application_is_configured_by_its_args(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wholly: a variable in the environment of some node has no say."""
    monkeypatch.setenv("LVSPEC_SERVING__PORT", "9001")
    args = {
        "config": write(tmp_path, BOTH),
        "serving": {"max_waiting": 3},
        "generation": {"max_tokens": 50},
    }
    config = endpoint_config_of(args)
    assert (config.serving.port, config.serving.max_waiting) == (9000, 3)
    assert config.generation.max_tokens == 50
    assert endpoint_config_of({"recipe": "reference"}) == endpoint_config_of(
        {"recipe": "reference", "input": {"uri": "x"}}
    )
    with pytest.raises(ConfigError, match=r"serving\.max_waitin.* in the application's args"):
        endpoint_config_of({"recipe": "reference", "serving": {"max_waitin": 3}})

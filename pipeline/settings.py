"""From command line, environment, file and recipe to one frozen RunConfig.

Precedence: command line > environment (``LVSPEC_SPECULATION__METHOD=none``) > config file >
recipe > the defaults in pipeline/config.py. Layers merge key by key, and every mistake names the
layer that it came from.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline.config import RunConfig
from pipeline.config_errors import ConfigError, Location, explain, nearest
from pipeline.decoding.calibration import CalibrationError, load_calibration
from pipeline.speculation_config import SpeculationMethod

PROJECT_ROOT = Path(__file__).resolve().parents[1]
RECIPES = PROJECT_ROOT / "jobs" / "recipes"
ENV_PREFIX = "LVSPEC_"
NOT_SET = "None"

SHORT_FLAGS = {
    "--input": "--input.uri",
    "--output": "--output.uri",
    "--limit": "--input.limit",
    "--endpoint-url": "--storage.endpoint-url",
    "--model": "--models.target.name",
    "--revision": "--models.target.revision",
    "--dtype": "--models.target.dtype",
    "--tensor-parallel-size": "--models.tensor-parallel-size",
    "--draft-model": "--models.draft.name",
    "--num-speculative-tokens": "--speculation.num-speculative-tokens",
    "--calibration": "--speculation.calibration",
    "--max-tokens": "--generation.max-tokens",
    "--max-num-seqs": "--generation.max-num-seqs",
}


class JobOptions(BaseModel):
    """How a job is run; nothing here changes a caption."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dry_run: bool = False
    """Plan, say what would be done, what it takes and whether it fits the GPUs, and stop."""
    cost_per_gpu_hour: float | None = Field(default=None, ge=0)
    """Price of a GPU for an hour, for the expected cost of a dry run."""
    preflight: bool = True
    """Stop before anything is loaded if the run can't fit its GPUs; --no-preflight tries it."""
    resume: bool = True
    """Go on where the data set ends; --no-resume refuses a data set that has rows."""
    runner: Literal["ray", "local"] = "ray"
    """local: one process without Ray."""
    address: str | None = None
    """Ray cluster to connect to; without it what Ray finds (RAY_ADDRESS), or a local one."""
    run_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder, a new one for every run; None makes one from the time."""
    log_format: Literal["text", "json"] = "text"
    """Log lines for people or for machines."""


class _CommandLine(JobOptions, RunConfig, BaseSettings):
    """Caption a video corpus in object storage."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        cli_prog_name="caption_corpus.py",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_use_class_docs_for_groups=True,
    )

    config: str | None = None
    """YAML file; may be partial, and may build on a recipe (`recipe: NAME`)."""
    recipe: str | None = None
    """Shipped configuration to start from (names below)."""


class _Environment(EnvSettingsSource):
    """Values are spelt as on the command line, ``a,b`` a list and ``None`` not set; or as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What the value of a list or a section means."""
        if value == NOT_SET:
            return value  # replaced where all values are
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            return value.split(",")
        return super().decode_complex_value(field_name, field, value)


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class JobCommand:
    """A whole command line."""

    config: RunConfig
    options: JobOptions


@dataclass(frozen=True, slots=True)
class _Layer:
    """Values of one source, and what to call it."""

    name: str
    values: dict[str, Any]


def load_run_config(argv: list[str]) -> RunConfig:
    """The config that a command line means. Raises ConfigError."""
    return parse_command_line(argv).config


def parse_command_line(argv: list[str]) -> JobCommand:
    """Parse ``argv`` (without the program's name) and all that it builds on.

    Raises ConfigError; ``--help`` prints and raises SystemExit(0).
    """
    given = _parse_flags(argv)
    options = {name: given.pop(name) for name in JobOptions.model_fields if name in given}
    file_name, recipe = given.pop("config", None), given.pop("recipe", None)
    layers = [_Layer("the command line", given), _environment_layer()]
    if file_name is not None:
        file_layer = _read_yaml(Path(file_name))
        recipe_of_file = file_layer.values.pop("recipe", None)
        recipe = recipe if recipe is not None else recipe_of_file
        layers.append(file_layer)
    if recipe is not None:
        layers.append(_recipe_layer(str(recipe)))
    config = _with_calibration(_validated(RunConfig, layers), layers)
    return JobCommand(config, _validated(JobOptions, [_Layer("the command line", options)]))


def recipe_names() -> list[str]:
    """The recipes that are shipped."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _parse_flags(argv: list[str]) -> dict[str, Any]:
    source: CliSettingsSource[ArgumentParser] = CliSettingsSource(_CommandLine)
    parser = source.root_parser
    _describe(parser)
    try:
        source(args=[_long_flag(argument) for argument in argv])
        return dict(source())
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        flag = next((word for word in message.split() if word.startswith("--")), "")
        known = [*parser._option_string_actions, *SHORT_FLAGS]
        hint = nearest(flag, known) if "unrecognized" in message else ""
        raise ConfigError(f"{message}{hint}; --help lists all flags") from error


def _long_flag(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return SHORT_FLAGS.get(flag, flag) + equals + value


def _describe(parser: ArgumentParser) -> None:
    """Make --help read as documentation: a short usage, enum values as they are written."""
    parser.usage = "%(prog)s (--config FILE | --recipe NAME) --input URI --output URI [options]"
    for action in parser._actions:
        # pydantic-settings shows the names of enum members; their values are the lower-case names
        if isinstance(action.metavar, str):
            is_list = action.metavar.startswith("tuple")
            action.metavar = "A,B" if is_list else action.metavar.lower()
        if action.help:
            action.help = action.help.replace(" (required)", "")
    shorts = "\n".join(f"  {short:26} {flag}" for short, flag in SHORT_FLAGS.items())
    parser.epilog = (
        f"short spellings:\n{shorts}\n\n"
        f"recipes: {', '.join(recipe_names())}\n\n"
        f"environment: {ENV_PREFIX}SECTION__KEY=value, e.g. {ENV_PREFIX}SPECULATION__METHOD=none\n"
        "  values as on the command line: None is not set, lists are A,B; JSON works as well\n"
        "precedence: command line > environment > config file > recipe > defaults\n"
        "`None` as a value means not set. Units are in the names: _s seconds, _px pixels."
    )


def _environment_layer() -> _Layer:
    sections = [f"{ENV_PREFIX}{name.upper()}" for name in RunConfig.model_fields]
    for name in os.environ:
        section = name.upper().partition("__")[0]
        if section.startswith(ENV_PREFIX) and section not in sections:
            raise ConfigError(f"unknown environment variable {name}{nearest(section, sections)}")
    try:
        values = _Environment(_CommandLine, env_parse_none_str=NOT_SET)()
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from error
    known = {name: value for name, value in values.items() if name in RunConfig.model_fields}
    return _Layer("the environment", known)


def _recipe_layer(name: str) -> _Layer:
    path = RECIPES / f"{name}.yaml"
    if name not in recipe_names():
        names = recipe_names()
        raise ConfigError(f"no recipe {name}{nearest(name, names)}; there are {', '.join(names)}")
    layer = _read_yaml(path)
    sections = [(model, "name") for model in layer.values.get("models", {}).values()]
    sections.append((layer.values.get("speculation"), "calibration"))
    for section, key in sections:
        if isinstance(section, dict) and str(section.get(key, "")).startswith("assets/"):
            section[key] = str(PROJECT_ROOT / section[key])  # shipped with the project
    return layer


def _with_calibration(config: RunConfig, layers: list[_Layer]) -> RunConfig:
    """The calibration's path made absolute, as captioners may run in another folder.

    A calibration of method none is not looked at. Raises ConfigError if it can't be read.
    """
    speculation = config.speculation
    if speculation.calibration is None or speculation.method is SpeculationMethod.NONE:
        return config
    path = Path(speculation.calibration).expanduser().absolute()
    try:
        load_calibration(path)
    except CalibrationError as error:
        source = _source_of(("speculation", "calibration"), layers)
        raise ConfigError(f"speculation.calibration (in {source}): {error}") from error
    pinned = speculation.model_copy(update={"calibration": str(path)})
    return config.model_copy(update={"speculation": pinned})


def _read_yaml(path: Path) -> _Layer:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections (`input:`, `models:`, ...)")
    return _Layer(str(path), values)


def _validated(model: type[Model], layers: list[_Layer]) -> Model:
    """Merge the layers (the first one wins) and check the result."""
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = _merged(values, layer.values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error, model, lambda location: _source_of(location, layers)) from error


def _merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """``upper`` over ``lower``, key by key.

    Another model name does not inherit the revision of the model that it replaces.
    """
    result = dict(lower)
    if "name" in upper and upper["name"] != lower.get("name"):
        result.pop("revision", None)
    for key, value in upper.items():
        below = lower.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _merged(below, value)
        result[key] = value
    return result


def _source_of(location: Location, layers: list[_Layer]) -> str:
    """The layer that decides the value at a location."""
    for layer in layers:
        value: Any = layer.values
        for key in location:
            if not isinstance(value, dict):
                break  # an item of a list: the list is what the layer gives
            if key not in value:
                value = None
                break
            value = value[key]
        if value is not None:
            return layer.name
    return "the defaults"

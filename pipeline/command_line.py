"""Command lines and the environment, spelt alike for every program that takes a configuration."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pipeline.config_errors import ConfigError, nearest
from pipeline.settings_layers import (
    SECTIONS,
    Config,
    Layer,
    read_yaml,
    recipe_names,
    resolve,
    validated,
)

ENV_PREFIX = "LVSPEC_"
API_KEYS_VARIABLE = f"{ENV_PREFIX}API_KEYS"
"""API keys of an endpoint, comma-separated: secrets, so no part of a configuration."""
NOT_SET = "None"

CAPTIONING_FLAGS = {
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
"""Short spellings of what runs and endpoints have in common."""

Options = TypeVar("Options", bound=BaseModel)


class ConfigFlags(BaseSettings):
    """What every command line has beside its options and the fields of its configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
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


@dataclass(frozen=True, slots=True)
class CommandLine(Generic[Config, Options]):
    """How a program is called. ``flags`` has the fields of ``config`` and of ``options``."""

    config: type[Config]
    options: type[Options]
    flags: type[ConfigFlags]
    short_flags: Mapping[str, str]
    usage: str

    def parse(self, argv: list[str]) -> tuple[Config, Options]:
        """The config and the options that ``argv`` (without the program's name) means.

        Raises ConfigError; ``--help`` prints and raises SystemExit(0).
        """
        given = self._given(argv)
        options = {name: given.pop(name) for name in self.options.model_fields if name in given}
        file_name, recipe = given.pop("config", None), given.pop("recipe", None)
        upper = [Layer("the command line", given), self._environment()]
        file = read_yaml(Path(file_name)) if file_name is not None else None
        config = resolve(self.config, upper, file, recipe)
        return config, validated(self.options, [Layer("the command line", options)])

    def _given(self, argv: list[str]) -> dict[str, Any]:
        source: CliSettingsSource[ArgumentParser] = CliSettingsSource(self.flags)
        parser = source.root_parser
        self._describe(parser)
        try:
            source(args=[self._long_flag(argument) for argument in argv])
            return dict(source())
        except SettingsError as error:
            message = str(error).removeprefix("error parsing CLI: ")
            flag = next((word for word in message.split() if word.startswith("--")), "")
            known = [*parser._option_string_actions, *self.short_flags]
            hint = nearest(flag, known) if "unrecognized" in message else ""
            raise ConfigError(f"{message}{hint}; --help lists all flags") from error

    def _long_flag(self, argument: str) -> str:
        flag, equals, value = argument.partition("=")
        return self.short_flags.get(flag, flag) + equals + value

    def _describe(self, parser: ArgumentParser) -> None:
        """Make --help read as documentation: a short usage, enum values as they are written."""
        parser.usage = f"%(prog)s {self.usage}"
        for action in parser._actions:
            # pydantic-settings shows the names of enum members; their values are the names in
            # lower case
            if isinstance(action.metavar, str):
                is_list = action.metavar.startswith("tuple")
                action.metavar = "A,B" if is_list else action.metavar.lower()
            if action.help:
                action.help = action.help.replace(" (required)", "")
        shorts = "\n".join(f"  {short:26} {flag}" for short, flag in self.short_flags.items())
        parser.epilog = (
            f"short spellings:\n{shorts}\n\n"
            f"recipes: {', '.join(recipe_names())}\n\n"
            f"environment: {ENV_PREFIX}SECTION__KEY=value, "
            f"e.g. {ENV_PREFIX}SPECULATION__METHOD=none\n"
            "  values as on the command line: None is not set, lists are A,B; JSON works as well\n"
            "precedence: command line > environment > config file > recipe > defaults\n"
            "`None` as a value means not set. Units are in the names: _s seconds, _px pixels."
        )

    def _environment(self) -> Layer:
        sections = [f"{ENV_PREFIX}{name.upper()}" for name in sorted(SECTIONS)]
        for name in os.environ:
            section = name.upper().partition("__")[0]
            is_ours = section.startswith(ENV_PREFIX) and section != API_KEYS_VARIABLE
            if is_ours and section not in sections:
                hint = nearest(section, sections)
                raise ConfigError(f"unknown environment variable {name}{hint}")
        try:
            values = _Environment(self.flags, env_parse_none_str=NOT_SET)()
        except SettingsError as error:
            raise ConfigError(f"environment: {error}") from error
        known = {name: values[name] for name in values if name in self.config.model_fields}
        return Layer("the environment", known)


class _Environment(EnvSettingsSource):
    """Values are spelt as on the command line, ``a,b`` a list and ``None`` not set; or as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What the value of a list or a section means."""
        if value == NOT_SET:
            return value  # replaced where all values are
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            return value.split(",")
        return super().decode_complex_value(field_name, field, value)

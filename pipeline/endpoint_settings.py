"""The configuration of an endpoint, from a command line or from a Serve application's args.

The recipes and files of the job serve here, too: what is a run's alone in them (`input`, `output`,
`failures`) is ignored. Precedence as in pipeline/settings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_settings import SettingsConfigDict

from pipeline.command_line import CAPTIONING_FLAGS, CommandLine, ConfigFlags
from pipeline.config import EndpointConfig
from pipeline.settings_layers import Layer, read_yaml, resolve

SHORT_FLAGS = {
    **CAPTIONING_FLAGS,
    "--host": "--serving.host",
    "--port": "--serving.port",
    "--served-model-name": "--serving.served-model-name",
    "--api-key-file": "--serving.api-key-file",
    "--allowed-local-media-path": "--serving.video-access.allowed-local-media-path",
}


class EndpointOptions(BaseModel):
    """How an endpoint is run; nothing here changes an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runner: Literal["ray", "local"] = "ray"
    """ray: Ray Serve; local: one process without Ray."""
    address: str | None = None
    """Ray cluster to connect to; without it what Ray finds (RAY_ADDRESS), or a local one."""


class _Flags(EndpointOptions, EndpointConfig, ConfigFlags):
    """Answer questions about videos over HTTP, as OpenAI's API spells them."""

    model_config = SettingsConfigDict(cli_prog_name="serve_captions.py")


_COMMAND_LINE = CommandLine(
    config=EndpointConfig,
    options=EndpointOptions,
    flags=_Flags,
    short_flags=SHORT_FLAGS,
    usage="(--config FILE | --recipe NAME) [options]",
)


@dataclass(frozen=True, slots=True)
class EndpointCommand:
    """A whole command line."""

    config: EndpointConfig
    options: EndpointOptions


def load_endpoint_config(argv: list[str]) -> EndpointConfig:
    """The config that a command line means. Raises ConfigError."""
    return parse_endpoint_command_line(argv).config


def parse_endpoint_command_line(argv: list[str]) -> EndpointCommand:
    """Parse ``argv`` (without the program's name) and all that it builds on.

    Raises ConfigError; ``--help`` prints and raises SystemExit(0).
    """
    return EndpointCommand(*_COMMAND_LINE.parse(argv))


def endpoint_config_of(args: Mapping[str, Any]) -> EndpointConfig:
    """The config that the args of a Serve application mean: sections, `recipe` and `config`.

    Sections are over the file `config`, that is over the recipe; the environment has no say, as an
    application is wholly described by its own file. Raises ConfigError.
    """
    values = dict(args)
    file_name, recipe = values.pop("config", None), values.pop("recipe", None)
    file = read_yaml(Path(str(file_name))) if file_name is not None else None
    return resolve(EndpointConfig, [Layer("the application's args", values)], file, recipe)

"""The command line of the captioning job: flags, environment, file and recipe to one RunConfig.

Precedence: command line > environment (``LVSPEC_SPECULATION__METHOD=none``) > config file >
recipe > the defaults in pipeline/config.py. Layers merge key by key, and every mistake names the
layer that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from pipeline.command_line import CAPTIONING_FLAGS, CommandLine, ConfigFlags
from pipeline.config import RunConfig
from pipeline.failure_kinds import FailureKind
from pipeline.settings_layers import PROJECT_ROOT as PROJECT_ROOT
from pipeline.settings_layers import recipe_names as recipe_names

SHORT_FLAGS = {
    "--input": "--input.uri",
    "--output": "--output.uri",
    "--limit": "--input.limit",
    **CAPTIONING_FLAGS,
}


_RETRY_FLAG = "--retry-failed"
_RETRIED_KINDS = f"{FailureKind.TRANSIENT},{FailureKind.OURS}"


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
    retry_failed: tuple[Literal["poison", "transient", "ours", "all"], ...] = ()
    """Caption again what failed in earlier runs, by kind: poison (the video's fault), transient,
    ours, or all; without a value: transient,ours."""
    runner: Literal["ray", "local"] = "ray"
    """local: one process without Ray."""
    address: str | None = None
    """Ray cluster to connect to; without it what Ray finds (RAY_ADDRESS), or a local one."""
    run_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder, a new one for every run; None makes one from the time."""
    log_format: Literal["text", "json"] = "text"
    """Log lines for people or for machines."""

    @property
    def retry(self) -> frozenset[FailureKind]:
        """Kinds of failures to try again."""
        kinds = (FailureKind if kind == "all" else (kind,) for kind in self.retry_failed)
        return frozenset(FailureKind(kind) for some in kinds for kind in some)


class _Flags(JobOptions, RunConfig, ConfigFlags):
    """Caption a video corpus in object storage."""

    model_config = SettingsConfigDict(cli_prog_name="caption_corpus.py")


_COMMAND_LINE = CommandLine(
    config=RunConfig,
    options=JobOptions,
    flags=_Flags,
    short_flags=SHORT_FLAGS,
    usage="(--config FILE | --recipe NAME) --input URI --output URI [options]",
)


@dataclass(frozen=True, slots=True)
class JobCommand:
    """A whole command line."""

    config: RunConfig
    options: JobOptions


def load_run_config(argv: list[str]) -> RunConfig:
    """The config that a command line means. Raises ConfigError."""
    return parse_command_line(argv).config


def parse_command_line(argv: list[str]) -> JobCommand:
    """Parse ``argv`` (without the program's name) and all that it builds on.

    Raises ConfigError; ``--help`` prints and raises SystemExit(0).
    """
    return JobCommand(*_COMMAND_LINE.parse(_with_retried_kinds(argv)))


def _with_retried_kinds(argv: list[str]) -> list[str]:
    """Say what a bare flag means: it may have no value, which no other flag has."""
    return [
        f"{_RETRY_FLAG}={_RETRIED_KINDS}"
        if word == _RETRY_FLAG and (following is None or following.startswith("-"))
        else word
        for word, following in zip(argv, [*argv[1:], None])
    ]

"""``runs/<run id>/``: what a run was, kept beside its rows."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.config import RunConfig
from pipeline.config_digest import dump_config
from pipeline.dataset.layout import Layout
from pipeline.dataset.summary import RunSummary
from pipeline.storage import Storage

PACKAGES = (
    "lvspec",
    "torch",
    "transformers",
    "ray",
    "deepspeed",
    "av",
    "pyarrow",
    "boto3",
    "numpy",
)


def write_start(storage: Storage, layout: Layout, run_id: str, config: RunConfig) -> None:
    """Keep the resolved config (secrets masked) and the versions that the run uses."""
    storage.put(layout.run_file_uri(run_id, "config.yaml"), dump_config(config).encode())
    _put_json(storage, layout.run_file_uri(run_id, "versions.json"), versions())


def write_end(storage: Storage, layout: Layout, run_id: str, summary: RunSummary) -> None:
    """Keep the run's figures."""
    _put_json(storage, layout.run_file_uri(run_id, "metrics.json"), summary.as_json())


def versions() -> dict[str, str | None]:
    """Interpreter, platform and the packages that decide what a caption says; None if absent."""
    return {"python": platform.python_version(), "platform": platform.platform()} | {
        name: _version(name) for name in PACKAGES
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # run from a working directory, not installed


def _put_json(storage: Storage, uri: str, value: Any) -> None:
    storage.put(uri, json.dumps(value, indent=2).encode() + b"\n")

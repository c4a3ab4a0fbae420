"""``runs/<run id>/``: what a run was, kept beside its rows."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.config import RunConfig
from pipeline.config_digest import dump_config
from pipeline.dataset.commit import CommitError
from pipeline.dataset.layout import Layout
from pipeline.dataset.summary import RunStatus, RunSummary
from pipeline.storage import AlreadyExistsError, Storage

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


class RunIdTakenError(CommitError):
    """An earlier run has this id; its folder is not overwritten."""


def write_start(storage: Storage, layout: Layout, run_id: str, config: RunConfig) -> None:
    """Keep the resolved config (secrets masked) and the versions that the run uses.

    Raises RunIdTakenError if there is such a run, or StorageError.
    """
    uri = layout.run_file_uri(run_id, "config.yaml")
    # the token tells our own put, sent again, from that of another run with the same config
    data = f"# written once, by {uuid.uuid4().hex}\n{dump_config(config)}".encode()
    try:
        storage.put_if_absent(uri, data)
    except AlreadyExistsError as error:
        if storage.read_bytes(uri) != data:
            raise RunIdTakenError(
                f"there is a run {run_id} in {layout.uri} already: "
                "choose another --run-id, or leave it out"
            ) from error
    _put_json(storage, layout.run_file_uri(run_id, "versions.json"), versions())


def write_end(storage: Storage, layout: Layout, run_id: str, summary: RunSummary) -> None:
    """Keep the run's figures, however it ended: the last thing that a run writes but the card."""
    _put_json(storage, layout.run_file_uri(run_id, "metrics.json"), summary.as_json())


def went_to_its_end(metrics: Mapping[str, Any]) -> bool:
    """Whether a run, by its figures, made a row of all that it had planned."""
    is_done = metrics.get("status", RunStatus.DONE) in (RunStatus.DONE, RunStatus.OVER_BUDGET)
    return is_done and not metrics.get("ended_early", False)


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

"""Where a model's config comes from: S3, its folder, what is shipped here, or the hub.

``published/`` holds what the shipped recipes' models were published with, as far as it decides
their size, so that the recipes can be reckoned with no network. A model's size does not change
with its revision, so what is shipped is taken before the hub is asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from pipeline.config import ModelConfig, StorageConfig
from pipeline.models.checkpoint import pin_revision
from pipeline.models.errors import ModelLoadError
from pipeline.preflight.errors import PreflightUnavailableError
from pipeline.preflight.memory import ModelSizes
from pipeline.preflight.shapes import model_sizes
from pipeline.storage import StorageError, join_uri, storage_for
from pipeline.storage.uris import is_s3

PUBLISHED = Path(__file__).parent / "published"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, StrictDataclassError)
"""Raised for no such file, no JSON, and configs that transformers doesn't know or accept."""


def sizes_of(model: ModelConfig, storage: StorageConfig) -> tuple[ModelSizes, str]:
    """The model's sizes, and where they are from, in words. Raises PreflightUnavailableError."""
    try:
        config, source = _find(model, storage)
        return model_sizes(config, model.dtype, model.name), source
    except (*_UNREADABLE, StorageError, ModelLoadError) as error:
        reason = str(error).partition("\n")[0]
        raise PreflightUnavailableError(reason) from error


def _find(model: ModelConfig, storage: StorageConfig) -> tuple[Any, str]:
    if is_s3(model.name):
        uri = join_uri(model.name.rstrip("/"), "config.json")
        content = json.loads(storage_for(uri, storage).read_bytes(uri))
        return AutoConfig.for_model(**content), "its folder in S3"
    folder, published = Path(model.name).expanduser(), PUBLISHED / f"{model.name}.json"
    if folder.is_dir():
        return AutoConfig.from_pretrained(folder, local_files_only=True), "its folder"
    if published.is_file():
        return AutoConfig.from_pretrained(published), "the published config, shipped here"
    pinned = pin_revision(model)  # says at once if there is no hub; transformers would try on
    return AutoConfig.from_pretrained(pinned.name, revision=pinned.revision), "the hub"

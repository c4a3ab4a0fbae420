"""Where a model's files are and which version they are, checked before anything is loaded.

Hub names become a local snapshot of one commit first, and prefixes in S3 a folder of this node's
cache, so everything after is about a folder: plain configuration and safetensors, never pickles,
never code that came with the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import httpx

from pipeline.config import ModelConfig, StorageConfig
from pipeline.models.errors import ModelLoadError
from pipeline.models.node_cache import NodeCache
from pipeline.storage.uris import is_s3

DEFAULT_STORAGE = StorageConfig()
"""S3 as the environment says."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A local folder of model files and the exact version that it holds."""

    name: str
    folder: Path
    revision: str
    model_type: str | None


def find_checkpoint(config: ModelConfig, storage: StorageConfig = DEFAULT_STORAGE) -> Checkpoint:
    """Locate a folder, or download a model of S3 or of the hub at one revision; check its files.

    The revision is the commit, ``sha256:<digest>`` over a folder's files, or ``s3:sha256:<digest>``
    over what S3 lists. A folder whose digest is not the configured revision is refused, and so is a
    model in S3 unless this node has a copy of that revision. Raises ModelLoadError.
    """
    path = Path(config.name).expanduser()
    revision: str | None = None
    if is_s3(config.name):
        folder, revision = _copy_of(config, storage)
    elif path.is_dir():
        folder = path
    else:
        _refuse_missing_folder(config.name)
        revision = _commit_of(config.name, config.revision)
        folder = _download(config.name, revision)
    model_config = _check_files(config.name, folder)
    if revision is None:
        revision = folder_digest(folder)
        if config.revision not in (None, revision):
            raise ModelLoadError(
                f"{config.name} has the content {revision}, not the configured revision "
                f"{config.revision}; remove the revision or restore the folder"
            )
    return Checkpoint(config.name, folder, revision, model_config.get("model_type"))


def pin_revision(config: ModelConfig, storage: StorageConfig = DEFAULT_STORAGE) -> ModelConfig:
    """The same model at the commit, or with the content, that it has now.

    A folder's name becomes absolute, so that it means and digests the same wherever it is read.
    Reads no weights from S3 or the hub: a driver pins what its workers will load. A revision that
    S3 does not hold any more is good if this node has a copy of it. Raises ModelLoadError.
    """
    folder = Path(config.name).expanduser()
    name = config.name
    revision: str | None
    if is_s3(name):
        name = name.rstrip("/")
        cache, revision = NodeCache(storage, _FILES), config.revision
        if cache.find(revision) is None:
            revision = cache.list(name, revision).revision
    elif folder.is_dir():
        name, revision = os.path.abspath(folder), find_checkpoint(config).revision
    else:
        _refuse_missing_folder(name)
        revision = _commit_of(name, config.revision)
    return config.model_copy(update={"name": name, "revision": revision})


def folder_digest(folder: Path) -> str:
    """``sha256:<40 hex digits>`` over the names and contents of all files that loading may read."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return f"sha256:{digest.hexdigest()[:40]}"


def _copy_of(config: ModelConfig, storage: StorageConfig) -> tuple[Path, str]:
    """Folder and revision of a model in S3; a revision that this node has needs no network."""
    cache = NodeCache(storage, _FILES)
    if config.revision is not None and (folder := cache.find(config.revision)):
        return folder, config.revision
    model = cache.list(config.name, config.revision)
    return cache.download(model), model.revision


def _refuse_missing_folder(name: str) -> None:
    """A path is never taken for the name of a hub model."""
    if Path(name).expanduser().exists() or name.startswith(("/", "./", "../", "~")):
        raise ModelLoadError(
            f"{name}: no such folder; name a folder, s3://bucket/prefix or a hub model"
        )


def _commit_of(name: str, revision: str | None) -> str:
    """The commit that a branch or tag of a hub model names; a full commit id needs no network."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    with _hub_errors(name, revision):
        commit = huggingface_hub.HfApi().model_info(name, revision=revision).sha
    if commit is None:
        raise ModelLoadError(f"{name}: the hub names no commit for revision {revision}")
    return commit


def _download(name: str, commit: str) -> Path:
    """A snapshot of a hub model at one commit; needs no network if it is in the cache."""
    with _hub_errors(name, commit):
        return Path(
            huggingface_hub.snapshot_download(name, revision=commit, allow_patterns=list(_FILES))
        )


@contextmanager
def _hub_errors(name: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, OSError, HFValidationError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelLoadError(
            f"{name}{at}: neither a folder here nor reachable on the hub ({error}); check the "
            "name, the network and HF_TOKEN, or give a local folder or a full commit id in cache"
        ) from error


def _check_files(name: str, folder: Path) -> dict[str, Any]:
    """The folder's config.json, once all files are known to be there, safe and plain."""
    config = _read_json(name, folder / "config.json")
    for path in sorted(folder.glob("*config.json")):
        if "auto_map" in _read_json(name, path):
            raise ModelLoadError(
                f"{name}: {path.name} asks to run code from the checkpoint (auto_map); only "
                "families built into transformers are loaded"
            )
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise ModelLoadError(
            f"{name} is quantised ({method}), which gives another dtype than configured; use the "
            "unquantised checkpoint"
        )
    if not any((folder / file).exists() for file in _TOKENIZERS):
        # transformers would make an empty tokenizer, and say nothing.
        raise ModelLoadError(f"{name}: no tokenizer.json in {folder}; complete the model")
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ModelLoadError(
                f"{name} has its weights as pickles ({', '.join(pickles)}), which can run code; "
                "convert them to safetensors (save_pretrained writes them)"
            )
        raise ModelLoadError(f"{name}: no *.safetensors in {folder}; complete the model")
    if (folder / _INDEX).exists():
        wanted = set(_read_json(name, folder / _INDEX).get("weight_map", {}).values())
        if missing := sorted(wanted - weights):
            raise ModelLoadError(
                f"{name}: {_INDEX} names {', '.join(missing)}, not in {folder}; complete the model"
            )
    return config


def _read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{name}: no {path.name} in {path.parent}; not a model") from error
    except ValueError as error:
        raise ModelLoadError(f"{path} is not valid JSON ({error}); restore it") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} holds no JSON object; restore it")
    return content

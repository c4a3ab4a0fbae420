"""Where a model's files are and which version they are, checked before anything is loaded.

Hub names become a local snapshot of one commit first, so everything after is about a folder: plain
configuration and safetensors, never pickles, never code that came with the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pipeline.config import ModelConfig
from pipeline.models.errors import ModelLoadError

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


def find_checkpoint(config: ModelConfig) -> Checkpoint:
    """Locate a folder, or download a hub model at a pinned commit, and check its files.

    The revision is the commit, or ``sha256:<digest>`` over a folder's files; a folder whose digest
    is not the configured revision is refused. Raises ModelLoadError.
    """
    path = Path(config.name).expanduser()
    if path.is_dir():
        folder, revision = path, None
    elif path.exists() or config.name.startswith(("/", "./", "../", "~")):
        raise ModelLoadError(f"{config.name}: no such folder; name a folder or a hub model")
    else:
        folder, revision = _download(config.name, config.revision)
    model_config = _check_files(config.name, folder)
    if revision is None:
        revision = folder_digest(folder)
        if config.revision not in (None, revision):
            raise ModelLoadError(
                f"{config.name} has the content {revision}, not the configured revision "
                f"{config.revision}; remove the revision or restore the folder"
            )
    return Checkpoint(config.name, folder, revision, model_config.get("model_type"))


def folder_digest(folder: Path) -> str:
    """``sha256:<40 hex digits>`` over the names and contents of all files that loading may read."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{content}\n".encode())
    return f"sha256:{digest.hexdigest()[:40]}"


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    """A snapshot of a hub model at one commit; a full commit id needs no network if cached."""
    try:
        commit = revision
        if commit is None or not _COMMIT.fullmatch(commit):
            commit = huggingface_hub.HfApi().model_info(name, revision=revision).sha
        folder = huggingface_hub.snapshot_download(
            name, revision=commit, allow_patterns=list(_FILES)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelLoadError(
            f"{name}{at}: neither a folder here nor reachable on the hub ({error}); check the "
            "name, the network and HF_TOKEN, or give a local folder or a full commit id in cache"
        ) from error
    if commit is None:
        raise ModelLoadError(f"{name}: the hub names no commit for revision {revision}")
    return Path(folder), commit


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
        raise ModelLoadError(f"{name}: no tokenizer.json in {folder}; complete the folder")
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ModelLoadError(
                f"{name} has its weights as pickles ({', '.join(pickles)}), which can run code; "
                "convert them to safetensors (save_pretrained writes them)"
            )
        raise ModelLoadError(f"{name}: no *.safetensors in {folder}; complete the folder")
    if (folder / _INDEX).exists():
        wanted = set(_read_json(name, folder / _INDEX).get("weight_map", {}).values())
        if missing := sorted(wanted - weights):
            raise ModelLoadError(
                f"{name}: {_INDEX} names {', '.join(missing)}, not in {folder}; complete the folder"
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

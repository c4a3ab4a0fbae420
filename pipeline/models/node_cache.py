"""Models of S3 in folders of a node: downloaded once, whole or not at all, for all its processes.

A folder's name is the revision of what is in it, so a model that changes is another folder, and a
folder that is there is complete: it gets its name, by one rename, once every byte is on the disk.
Nothing is evicted: delete folders of models that are not used any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import StorageConfig
from pipeline.models.errors import ModelLoadError
from pipeline.progress import StepProgress
from pipeline.records import VideoObject
from pipeline.storage import (
    AccessDeniedError,
    CredentialsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    UnsupportedUriError,
    join_uri,
)

if TYPE_CHECKING:
    from pipeline.storage.s3 import S3Storage

PART_BYTES = 16 << 20  # one request; a part is in memory until it is written
NUM_CONNECTIONS = 8  # parts under way at once

_REVISION = re.compile(r"s3:sha256:([0-9a-f]{40})")
_REMEDIES: dict[type[StorageError], str] = {
    ObjectChangedError: "the model was replaced meanwhile: run again once its upload is complete",
    NotFoundError: "check that the bucket and all the model's files are there",
    AccessDeniedError: "allow s3:ListBucket on the bucket and s3:GetObject on the model's files",
    CredentialsError: "check the credentials that this node finds (the default chain)",
    UnsupportedUriError: "name s3://bucket/prefix",
}
_MORE_ROOM = "delete models there that are not used, or set XDG_CACHE_HOME to a larger disk"


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/lvspec/models``, or below ``~/.cache`` if that is unset (or relative)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "lvspec" / "models"


@dataclass(frozen=True, slots=True)
class S3Model:
    """The files of a model as S3 lists them, each in one version."""

    uri: str
    files: tuple[VideoObject, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def revision(self) -> str:
        """``s3:sha256:<40 hex digits>`` over the files' names, sizes and ETags.

        As much of the content as S3 tells without reading it: where the bucket is does not count.
        An ETag is a digest of the bytes and, of an upload in parts, of the parts' size: uploading
        the same files in other parts makes another revision; copying an object can, too.
        """
        facts = sorted((_name(file), file.size_bytes, file.etag) for file in self.files)
        return f"s3:sha256:{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]}"


class NodeCache:
    """The folder of models that this node's processes share, and the store they come from.

    ``patterns`` say which files of a model are wanted; below its prefix, not in folders there.
    """

    def __init__(
        self, config: StorageConfig, patterns: Sequence[str], root: Path | None = None
    ) -> None:
        self._config = config
        self._patterns = patterns
        self._root = root or cache_root()

    @cached_property
    def _storage(self) -> S3Storage:
        # boto3 takes a while to import: only who needs it
        from pipeline.storage.s3 import S3Storage

        return S3Storage(self._config)

    def find(self, revision: str | None) -> Path | None:
        """The folder of a revision, if it is here; asks nobody."""
        match = _REVISION.fullmatch(revision or "")
        folder = self._root / match[1] if match else None
        return folder if folder is not None and folder.is_dir() else None

    def list(self, uri: str, revision: str | None = None) -> S3Model:
        """What is in S3 now, nothing downloaded.

        Raises ModelLoadError if that is no model, is out of reach or is not of the ``revision``.
        """
        with _explained(uri):
            files = tuple(
                file
                for file in self._storage.list(uri)
                if _is_below(file.uri, uri)
                and any(fnmatchcase(_name(file), pattern) for pattern in self._patterns)
            )
        names = {_name(file) for file in files}
        if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
            raise ModelLoadError(
                f"{uri}: no config.json and *.safetensors right below this prefix; check the name "
                "and that the upload is complete"
            )
        model = S3Model(uri, files)
        if revision not in (None, model.revision):
            raise ModelLoadError(
                f"{uri} holds {model.revision}, and {self._root} has no copy of the configured "
                f"revision {revision}: the model in S3 changed since the run was planned; restore "
                "it, or remove the revision and plan anew"
            )
        return model

    def download(self, model: S3Model) -> Path:
        """The model's folder; one process of the node downloads, the others wait for it.

        Raises ModelLoadError if a file is not the version that was listed, S3 or the disk fails.
        """
        wanted = f"{model.uri} takes {model.size_bytes} bytes ({model.size_bytes / 1e9:.1f} GB)"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with _explained(model.uri), _locked(self._root / "lock"):
                if found := self.find(model.revision):
                    return found
                for left in self._root.glob("*.partial"):  # by a process that was killed
                    shutil.rmtree(left)
                free_bytes = shutil.disk_usage(self._root).free
                if free_bytes < model.size_bytes:
                    raise ModelLoadError(
                        f"{wanted} and {self._root} has {free_bytes} bytes "
                        f"({free_bytes / 1e9:.1f} GB) free; {_MORE_ROOM}"
                    )
                return self._download(model)
        except OSError as error:
            raise ModelLoadError(
                f"{wanted} and can't be kept in {self._root} ({error}); {_MORE_ROOM}"
            ) from error

    def _download(self, model: S3Model) -> Path:
        """Download with the lock held: aside, and then all of it in one rename."""
        folder = self._root / model.revision.rpartition(":")[2]
        aside = folder.with_name(f"{folder.name}.partial")
        aside.mkdir()
        try:
            self._fill(aside, model)
            os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # what failed must not fill the disk
        _sync(self._root)
        return folder

    def _fill(self, folder: Path, model: S3Model) -> None:
        paths = [folder / _name(file) for file in model.files]
        for path in paths:
            path.touch()
        parts = [
            (file, path, start)
            for file, path in zip(model.files, paths, strict=True)
            for start in range(0, file.size_bytes, PART_BYTES)
        ]
        storage = self._storage

        def copy(part: tuple[VideoObject, Path, int]) -> None:
            file, path, start = part
            length = min(PART_BYTES, file.size_bytes - start)
            data = storage.read_range(file, start, length)  # If-Match, whole, tried again
            with path.open("r+b") as stream:
                stream.seek(start)
                stream.write(data)

        label = f"downloading {model.uri} ({model.size_bytes / 1e9:.1f} GB), parts"
        progress = StepProgress(label, len(parts), _print)
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            # a part that fails ends the loop, which cancels those that are not under way
            for num_done, _ in enumerate(pool.map(copy, parts), 1):
                progress.show(num_done)
        for path in (*paths, folder):
            _sync(path)


def _print(line: str) -> None:
    """Not to the log: an hour of downloading has to be seen where nobody has set the log up."""
    print(line, file=sys.stderr, flush=True)


def _name(file: VideoObject) -> str:
    return file.uri.rpartition("/")[2]


def _is_below(file: str, folder: str) -> bool:
    """Right below, in no folder of its own: what else is there is not of the model."""
    return file == join_uri(folder, file.rpartition("/")[2])


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """StorageError -> ModelLoadError that says what to do."""
    try:
        yield
    except StorageError as error:
        remedy = _REMEDIES.get(type(error), "check storage.endpoint_url and the network")
        raise ModelLoadError(f"{uri} can't be read ({error}); {remedy}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of the node at a time; the kernel unlocks when a process dies, however it does.

    One lock for all models: what is partial under it is left over, and free space is free. The file
    stays: one that is removed while somebody waits for it would let two in.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _print(f"waiting for another process that downloads a model into {path.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

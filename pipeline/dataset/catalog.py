"""Which videos there are: a folder, a prefix, a manifest or one file, listed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from pipeline.config import InputConfig, StorageConfig
from pipeline.dataset.manifest import ManifestRow, is_manifest, read_manifest
from pipeline.dataset.plan_ahead import ahead
from pipeline.dataset.plan_ids import IdSet, uri_id
from pipeline.dataset.plan_listing import list_in_any_order
from pipeline.records import VideoObject
from pipeline.storage import (
    AccessDeniedError,
    NotFoundError,
    UnsupportedUriError,
    parent_uri,
    resolve_uri,
    storage_for,
    uri_suffix,
)
from pipeline.storage.uris import is_s3, join_uri, local_path

_LOG = logging.getLogger(__name__)

MAX_LOOKUPS = 32  # manifest rows without a version are looked up this many at a time


class NoVideosError(Exception):
    """The input names not one video: most often the URI is mistyped."""


class Reason(StrEnum):
    """Why a video is planned; the values are those of a plan's column ``reason``."""

    NEW = "new"
    """No data set below the output has a row of it."""
    CHANGED = "changed"
    """This data set has rows of another version of it."""
    UNFINISHED = "unfinished"
    """Some of its clips are done, some not."""
    RECONFIGURED = "reconfigured"
    """It has rows in the data set of another config digest: the prompt or a model changed."""
    RETRIED = "retried"
    """It failed, or clips of it did, and this run was told to try such failures again."""


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """A video with something left to do, and those of its clips that are done."""

    video: VideoObject
    done_clip_ids: frozenset[str] = frozenset()
    reason: Reason = Reason.NEW


def list_videos(
    config: InputConfig, storage_config: StorageConfig, in_order: bool = True
) -> Iterator[VideoObject]:
    """All videos of a folder, a prefix, a manifest, or one file, in a deterministic order.

    Without ``in_order`` a large prefix is listed by many requests at a time and comes as it comes.
    A manifest row that names a missing (or forbidden, or unsupported) object gives a video with an
    empty etag: opening it makes the failure row that says why, and once the object is there it has
    an etag, so it is another video and is planned. Raises StorageError, ManifestError, and
    NoVideosError after a listing of nothing.
    """
    is_empty = True
    for video in _listed(config, storage_config, in_order):
        is_empty = False
        yield video
    if is_empty:
        endings = ", ".join(config.extensions)
        why = "no rows" if is_manifest(config.uri) else f"nothing ends in {endings}"
        raise NoVideosError(f"no videos in {config.uri} ({why})")


def listed_prefix(config: InputConfig) -> str | None:
    """What all names of a folder's listing begin with; None of a manifest and of one file."""
    if is_manifest(config.uri) or _is_one_file(config):
        return None
    return join_uri(config.uri if is_s3(config.uri) else local_path(config.uri), "")


def _is_one_file(config: InputConfig) -> bool:
    return uri_suffix(config.uri) in config.extensions and not config.uri.endswith("/")


def _listed(
    config: InputConfig, storage_config: StorageConfig, in_order: bool
) -> Iterator[VideoObject]:
    storage = storage_for(config.uri, storage_config)
    if is_manifest(config.uri):
        yield from _manifest_videos(config.uri, storage_config)
    elif _is_one_file(config):
        yield storage.stat(config.uri)
    else:
        many_at_a_time = is_s3(config.uri) and not in_order
        found = (
            list_in_any_order(storage, config.uri) if many_at_a_time else storage.list(config.uri)
        )
        for video in found:
            if uri_suffix(video.uri) in config.extensions:
                yield video


def _manifest_videos(uri: str, storage_config: StorageConfig) -> Iterator[VideoObject]:
    rows = _unique(uri, read_manifest(storage_for(uri, storage_config), uri))
    return ahead(partial(_look_up, storage_config=storage_config), rows, MAX_LOOKUPS)


def _unique(manifest_uri: str, rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    """Rows with absolute URIs; of several rows of one URI the first, as one video has one row."""
    folder = parent_uri(manifest_uri)
    seen = IdSet()
    num_repeated = 0
    for row in rows:
        uri = resolve_uri(folder, row.uri)
        if not seen.add(uri_id(uri)):
            num_repeated += 1
            continue
        yield ManifestRow(uri, row.etag, row.size_bytes)
    if num_repeated:
        _LOG.warning("%s names %d videos more than once", manifest_uri, num_repeated)


def _look_up(row: ManifestRow, storage_config: StorageConfig) -> VideoObject:
    if row.etag is not None and row.size_bytes is not None:
        return VideoObject(row.uri, row.etag, row.size_bytes)
    try:
        found = storage_for(row.uri, storage_config).stat(row.uri)
    except (NotFoundError, AccessDeniedError, UnsupportedUriError):
        return VideoObject(row.uri, row.etag or "", row.size_bytes or 0)
    return VideoObject(found.uri, row.etag or found.etag, found.size_bytes)

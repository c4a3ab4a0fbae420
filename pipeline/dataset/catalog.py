"""Which videos there are, and which of them are not done: listing minus data set."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from pipeline.config import InputConfig, RunConfig, StorageConfig
from pipeline.dataset.done import DoneClips
from pipeline.dataset.manifest import ManifestRow, is_manifest, read_manifest
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

_LOG = logging.getLogger(__name__)

MAX_LOOKUPS = 32  # manifest rows without a version are looked up this many at a time


class NoVideosError(Exception):
    """The input names not one video: most often the URI is mistyped."""


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """A video with something left to do, and those of its clips that are done."""

    video: VideoObject
    done_clip_ids: frozenset[str] = frozenset()


def plan_videos(config: RunConfig, done: DoneClips) -> Iterator[PlannedVideo]:
    """Videos of the input that are not done, at most ``input.limit``, in the input's order.

    A changed etag is another video. Raises StorageError (no such folder, ...), ManifestError or
    NoVideosError.
    """
    left = (
        PlannedVideo(video, done.clip_ids(video.video_id))
        for video in list_videos(config.input, config.storage)
        if not done.has_video(video.video_id)
    )
    return islice(left, config.input.limit)


def list_videos(config: InputConfig, storage_config: StorageConfig) -> Iterator[VideoObject]:
    """All videos of a folder, a prefix, a manifest, or one file, in a deterministic order.

    A manifest row that names a missing (or forbidden, or unsupported) object gives a video with an
    empty etag: opening it makes the failure row that says why, and once the object is there it has
    an etag, so it is another video and is planned. Raises StorageError, ManifestError, and
    NoVideosError after a listing of nothing.
    """
    is_empty = True
    for video in _listed(config, storage_config):
        is_empty = False
        yield video
    if is_empty:
        endings = ", ".join(config.extensions)
        why = "no rows" if is_manifest(config.uri) else f"nothing ends in {endings}"
        raise NoVideosError(f"no videos in {config.uri} ({why})")


def _listed(config: InputConfig, storage_config: StorageConfig) -> Iterator[VideoObject]:
    storage = storage_for(config.uri, storage_config)
    if is_manifest(config.uri):
        yield from _manifest_videos(config.uri, storage_config)
    elif uri_suffix(config.uri) in config.extensions and not config.uri.endswith("/"):
        yield storage.stat(config.uri)
    else:
        for video in storage.list(config.uri):
            if uri_suffix(video.uri) in config.extensions:
                yield video


def _manifest_videos(uri: str, storage_config: StorageConfig) -> Iterator[VideoObject]:
    rows = _unique(uri, read_manifest(storage_for(uri, storage_config), uri))
    with ThreadPoolExecutor(MAX_LOOKUPS) as pool:
        waiting: deque[Future[VideoObject]] = deque()
        for row in rows:
            waiting.append(pool.submit(_look_up, row, storage_config))
            if len(waiting) == 2 * MAX_LOOKUPS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _unique(manifest_uri: str, rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    """Rows with absolute URIs; of several rows of one URI the first, as one video has one row."""
    folder = parent_uri(manifest_uri)
    seen: set[str] = set()
    num_repeated = 0
    for row in rows:
        uri = resolve_uri(folder, row.uri)
        if uri in seen:
            num_repeated += 1
            continue
        seen.add(uri)
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

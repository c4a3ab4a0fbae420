"""From the video that a request names to a decoded clip: where it may come from, and how much."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from pipeline.config import (
    ClipConfig,
    FrameSamplingConfig,
    SamplingPolicy,
    StorageConfig,
    VideoConfig,
)
from pipeline.records import DecodedClip, VideoObject
from pipeline.serving.decoder_pool import ClipRequest, DecoderPool
from pipeline.serving.held_video import HeldVideo, hold_data, hold_file
from pipeline.serving.video_errors import (
    VideoFetchError,
    VideoRefusedError,
    not_allowed,
    too_large,
)
from pipeline.serving.video_fetch import Resolver, VideoFetcher, system_resolver
from pipeline.serving.video_url import (
    DataUrl,
    FileUrl,
    RemoteUrl,
    S3Url,
    VideoUrl,
    parse_video_url,
)
from pipeline.serving_config import VideoAccessConfig
from pipeline.storage import (
    AccessDeniedError,
    NotFoundError,
    ObjectChangedError,
    Opener,
    StorageError,
    storage_for,
)

_MAX_FPS = 1000.0  # more asks for nothing: no frame is sampled twice

_Source: TypeAlias = tuple[VideoObject, Opener]


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """The video of a request.

    ``num_frames`` or ``fps`` (frames/s) replace the configured sampling; ``start_s`` and ``end_s``
    choose a span in seconds from the first frame, None to the end.
    """

    url: str = field(repr=False)
    num_frames: int | None = None
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None


class VideoLoader:
    """Loads videos from the sources that the configuration allows; for many requests at once."""

    def __init__(
        self,
        video: VideoConfig,
        storage: StorageConfig,
        access: VideoAccessConfig,
        num_decoders: int,
        resolver: Resolver = system_resolver,
    ) -> None:
        self._storage = storage
        self._access = access
        self._fetcher = VideoFetcher(access, resolver)
        self._pool = DecoderPool(_bounded(video, access), num_decoders)
        self._fetching = asyncio.Semaphore(access.max_concurrent_fetches)
        self._receiving = asyncio.Semaphore(num_decoders)

    async def load(self, request: VideoRequest) -> DecodedClip:
        """The clip that the request names.

        An http(s), data or file video is known by a digest of its bytes (the etag), an object in
        S3 by the store's etag, so its clips are those of the nightly job. Cancelling drops the
        connection, the temporary file and the decode process. Raises VideoRefusedError,
        VideoFetchError, and VideoError for what is wrong with the video itself.
        """
        sampling = self._sampling(request)
        start_s, end_s = _span(request)
        url = parse_video_url(request.url)
        with _storage_errors():
            async with self._opened(url) as (video, opener):
                return await self._pool.decode(ClipRequest(video, opener, sampling, start_s, end_s))

    async def close(self) -> None:
        """End the decode processes."""
        await self._pool.close()

    @asynccontextmanager
    async def _opened(self, url: VideoUrl) -> AsyncIterator[_Source]:
        match url:
            case RemoteUrl():
                self._fetcher.check(url)  # a refusal need not wait
                async with self._fetching:
                    with HeldVideo.temporary(self._access.max_bytes) as held:
                        await self._fetcher.fetch(url, held)
                        yield held.video(url.shown), held.opener(self._storage)
            case DataUrl():
                if not self._access.allow_data_urls:
                    raise not_allowed(
                        "data: URLs are not allowed here (serving.video_access.allow_data_urls)"
                    )
                async with self._receiving:
                    with await asyncio.to_thread(hold_data, url, self._access.max_bytes) as held:
                        yield held.video(f"data:{url.media_type}"), held.opener(self._storage)
            case FileUrl():
                folder, max_bytes = self._access.allowed_local_media_path, self._access.max_bytes
                with await asyncio.to_thread(hold_file, url, folder, max_bytes) as held:
                    yield held.video(f"file://{url.path}"), held.opener(self._storage)
            case S3Url():
                yield await self._object(url)

    async def _object(self, url: S3Url) -> _Source:
        if not any(
            url.uri.startswith(prefix.rstrip("/") + "/")
            for prefix in self._access.allowed_s3_prefixes
        ):
            raise not_allowed(
                "this part of S3 is not allowed here (serving.video_access.allowed_s3_prefixes)"
            )
        timeout_s = self._access.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                video = await asyncio.to_thread(
                    lambda: storage_for(url.uri, self._storage).stat(url.uri)
                )
        except TimeoutError as error:
            message = f"the object store did not answer in {timeout_s:g} s"
            raise VideoFetchError(504, "video_fetch_timeout", message) from error
        if video.size_bytes > self._access.max_bytes:
            raise too_large(self._access.max_bytes)
        return video, Opener(video.uri, video.etag, self._storage)

    def _sampling(self, request: VideoRequest) -> FrameSamplingConfig | None:
        num_frames, fps, max_frames = request.num_frames, request.fps, self._access.max_frames
        if num_frames is not None and fps is not None:
            raise _bad_sampling("give num_frames or fps, not both")
        if num_frames is not None:
            if not 1 <= num_frames <= max_frames:
                raise _bad_sampling(f"num_frames has to be from 1 to {max_frames}")
            return FrameSamplingConfig(policy=SamplingPolicy.UNIFORM, num_frames=num_frames)
        if fps is not None:
            if not 0 < fps <= _MAX_FPS:
                raise _bad_sampling(f"fps has to be above 0 and at most {_MAX_FPS:g}")
            return FrameSamplingConfig(policy=SamplingPolicy.FPS, fps=fps, max_frames=max_frames)
        return None


def _bounded(video: VideoConfig, access: VideoAccessConfig) -> VideoConfig:
    """A video is one clip, and the stricter limits hold: nobody waits ten minutes for scenes."""
    limits = video.limits
    stricter = {
        "max_duration_s": min(limits.max_duration_s, access.max_duration_s),
        "plan_timeout_s": min(limits.plan_timeout_s, limits.timeout_s),
    }
    return video.model_copy(
        update={"clips": ClipConfig(), "limits": limits.model_copy(update=stricter)}
    )


def _span(request: VideoRequest) -> tuple[float, float | None]:
    start_s = 0.0 if request.start_s is None else request.start_s
    end_s = request.end_s
    if not (math.isfinite(start_s) and start_s >= 0):
        raise VideoRefusedError(400, "invalid_span", "start_s has to be 0 or more seconds")
    if end_s is not None and not (math.isfinite(end_s) and end_s > start_s):
        raise VideoRefusedError(400, "invalid_span", "end_s has to be after start_s")
    return start_s, end_s


def _bad_sampling(message: str) -> VideoRefusedError:
    return VideoRefusedError(400, "invalid_sampling", message)


@contextmanager
def _storage_errors() -> Iterator[None]:
    """A StorageError in words for the client: it names buckets and paths of ours."""
    try:
        yield
    except NotFoundError as error:
        message = "there is no such object"
        raise VideoFetchError(400, "video_not_found", message) from error
    except AccessDeniedError as error:
        raise not_allowed("the endpoint is not permitted to read this object") from error
    except ObjectChangedError as error:
        message = "the video was replaced while it was read: ask again"
        raise VideoFetchError(502, "video_fetch_failed", message) from error
    except StorageError as error:
        message = "the object store can't be read now: try again later"
        raise VideoFetchError(502, "video_fetch_failed", message) from error

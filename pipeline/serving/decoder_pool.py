"""Killable decode processes for concurrent requests; one whose client has gone is killed."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.config import FrameSamplingConfig, VideoConfig
from pipeline.records import ClipSpec, DecodedClip, Stage, VideoObject, frames_digest
from pipeline.serving.video_errors import VideoRefusedError
from pipeline.storage import Opener
from pipeline.video.clips import Span
from pipeline.video.errors import VideoError
from pipeline.video.guard import GuardedDecoder

_INTERRUPT_EVERY_S = 0.1  # a child that is starting can't be interrupted yet


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """A span of a video to decode; ``end_s`` None is its end, ``sampling`` None the configured."""

    video: VideoObject
    opener: Opener
    sampling: FrameSamplingConfig | None
    start_s: float
    end_s: float | None


class DecoderPool:
    """``num_decoders`` decode processes, each started by the first request that needs it."""

    def __init__(self, video: VideoConfig, num_decoders: int) -> None:
        self._decoders = [GuardedDecoder(video) for _ in range(num_decoders)]
        self._idle: asyncio.LifoQueue[GuardedDecoder] = asyncio.LifoQueue()  # the warm ones first
        for decoder in self._decoders:
            self._idle.put_nowait(decoder)
        self._threads = ThreadPoolExecutor(num_decoders, thread_name_prefix="video-decoder")
        self._running: dict[asyncio.Future[DecodedClip], _Job] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def decode(self, request: ClipRequest) -> DecodedClip:
        """Decode as soon as a process is free.

        Cancelling kills the process. Raises VideoError, VideoRefusedError (a span outside of the
        video) and what the opener raises.
        """
        decoder = await self._idle.get()
        job = _Job(decoder, request)
        future = asyncio.get_running_loop().run_in_executor(self._threads, job.run)
        self._running[future] = job
        future.add_done_callback(lambda _: self._give_back(future, decoder))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            ending = asyncio.create_task(_end(future, job))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            raise

    def _give_back(self, future: asyncio.Future[DecodedClip], decoder: GuardedDecoder) -> None:
        del self._running[future]
        self._idle.put_nowait(decoder)

    async def close(self) -> None:
        """End all processes; what they decode raises VideoError."""
        await asyncio.gather(*(_end(future, job) for future, job in self._running.items()))
        for decoder in self._decoders:
            decoder.close()
        self._threads.shutdown()


class _Job:
    """One request of one decoder, run in a thread, given up from another."""

    def __init__(self, decoder: GuardedDecoder, request: ClipRequest) -> None:
        self._decoder = decoder
        self._request = request
        self._lock = threading.Lock()
        self._is_given_up = False
        self._has_ended = False

    def run(self) -> DecodedClip:
        try:
            return _decode(self._decoder, self._request)
        finally:
            with self._lock:
                self._has_ended = True
                if self._is_given_up:
                    self._decoder.close()  # it may be dead, which the next request must not find

    def give_up(self) -> None:
        """Interrupt the decoder, but not in what it does after this request."""
        with self._lock:
            self._is_given_up = True
            if not self._has_ended:
                self._decoder.interrupt()


async def _end(future: asyncio.Future[DecodedClip], job: _Job) -> None:
    while not future.done():
        job.give_up()
        await asyncio.wait([future], timeout=_INTERRUPT_EVERY_S)


def _decode(decoder: GuardedDecoder, request: ClipRequest) -> DecodedClip:
    started_s = time.perf_counter()
    opener = request.opener
    try:
        info = decoder.plan(opener).info
        span = _span(request, info.duration_s)
        decoded = decoder.decode(opener, info, span, request.sampling)
    except VideoError as error:
        raise _without_path(error, opener) from error
    return DecodedClip(
        spec=ClipSpec(request.video, 0, 1, *span),
        info=info,
        frames=decoded.frames,
        timestamps_s=decoded.timestamps_s,
        frames_digest=frames_digest(decoded.frames, decoded.timestamps_s),
        decode_s=time.perf_counter() - started_s,
    )


def _span(request: ClipRequest, duration_s: float) -> Span:
    if request.start_s >= duration_s:
        message = f"start_s {request.start_s:g} is not in the video: it lasts {duration_s:g} s"
        raise VideoRefusedError(400, "invalid_span", message)
    end_s = duration_s if request.end_s is None else min(request.end_s, duration_s)
    return request.start_s, end_s


def _without_path(error: VideoError, opener: Opener) -> VideoError:
    """FFmpeg and the system name the file that they failed on: a path of this machine."""
    message = error.message.replace(opener.uri, "the video")
    if error.stage is Stage.READ:
        message = "the video's bytes could not be read"
    return VideoError(error.code, error.stage, message)

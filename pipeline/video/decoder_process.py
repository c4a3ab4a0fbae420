"""The child of GuardedDecoder: reads requests from a socket, answers, ends with its parent."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.config import ClipPolicy, FrameSamplingConfig, VideoConfig
from pipeline.records import VideoInfo
from pipeline.video.clips import Span, plan_spans
from pipeline.video.container import Source, reading
from pipeline.video.decode import DecodedFrames, decode_frames
from pipeline.video.probe import probe
from pipeline.video.scenes import find_scene_cuts

VideoSource: TypeAlias = str | Callable[[], BinaryIO]
"""A local path, or a picklable function that opens a seekable binary file."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Answered with (VideoInfo, list[Span])."""

    source: VideoSource


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Answered with a FramesHeader and then the frames' bytes.

    ``sampling`` is for this clip alone; None is the configured one.
    """

    source: VideoSource
    info: VideoInfo
    span: Span
    sampling: FrameSamplingConfig | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FramesHeader:
    """shape [F, H, W, 3] of the uint8 frames that follow; timestamps_s [F]."""

    shape: tuple[int, ...]
    timestamps_s: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception instead of an answer."""

    error: Exception
    traceback: str


def serve(connection: Connection, config: VideoConfig) -> None:
    """Answer requests until the parent hangs up."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            if isinstance(request, PlanRequest):
                connection.send(_plan(request, config))
                continue
            decoded = _decode(request, config)
        except Exception as error:  # noqa: BLE001 - raised again in the parent, which decides
            connection.send(_raised(error))
        else:
            connection.send(FramesHeader(decoded.frames.shape, decoded.timestamps_s))
            _write_all(connection.fileno(), decoded.frames.reshape(-1).data)


def _plan(request: PlanRequest, config: VideoConfig) -> tuple[VideoInfo, list[Span]]:
    with _opened(request.source) as source:
        info = probe(source, config.limits)
        cuts_s: list[float] = []
        if config.clips.policy is ClipPolicy.SCENES:
            cuts_s = find_scene_cuts(source, info, config.clips.scene_threshold)
    return info, plan_spans(info, config.clips, cuts_s)


def _decode(request: DecodeRequest, config: VideoConfig) -> DecodedFrames:
    if request.sampling is not None:
        config = config.model_copy(update={"sampling": request.sampling})
    with _opened(request.source) as source:
        return decode_frames(source, request.info, *request.span, config)


@contextmanager
def _opened(source: VideoSource) -> Iterator[Source]:
    if isinstance(source, str):
        yield source
        return
    with reading():
        file = source()
    with file:
        yield file


def _raised(error: Exception) -> Raised:
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Raised(error, text)


def _write_all(fd: int, buffer: memoryview) -> None:
    while buffer:
        buffer = buffer[os.write(fd, buffer) :]


def _limit_memory(growth_bytes: int) -> None:
    """Address space may grow by so much from here; and a crash leaves no core file."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        now_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + growth_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent(fd: int, parent_pid: int) -> None:
    """End this process, even in the middle of a decode, when its parent has gone.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the child ends. And not the
    hang-up alone: a process forked from the parent may hold a copy of its end.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(fd, select.POLLRDHUP)
        while os.getppid() == parent_pid and not poll.poll(1000):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(fd: int, parent_pid: int) -> None:
    """Serve the parent at the other end of socket ``fd``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    _end_with_parent(fd, parent_pid)
    with Connection(fd) as connection:
        config: VideoConfig = connection.recv()
        _limit_memory(config.limits.max_memory_bytes)
        connection.send(None)
        serve(connection, config)


if __name__ == "__main__":
    # The module is __main__ here, but its messages are pickled by their importable name.
    from pipeline.video import decoder_process

    decoder_process.main(int(sys.argv[1]), int(sys.argv[2]))

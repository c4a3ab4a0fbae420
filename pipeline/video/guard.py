"""A decode process that can be killed: hostile files end it, never the actor that uses it.

Codecs are C code fed by strangers: they hang, crash and eat memory. All of it happens in one warm
child process with a memory limit and a wall clock; if it dies, the next request starts another.
The child is a fresh interpreter with FFmpeg and numpy only (no fork of a process with threads or
CUDA, no re-import of the caller's main module, no torch), and ends when its parent does. Frames
come back as raw bytes over a socket: nothing is pickled twice, no shared memory can leak.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from pipeline.config import FrameSamplingConfig, VideoConfig
from pipeline.records import Stage, VideoInfo
from pipeline.video import decoder_process
from pipeline.video.clips import Span
from pipeline.video.decode import DecodedFrames
from pipeline.video.decoder_process import FramesHeader, PlanRequest, Raised, VideoSource
from pipeline.video.errors import VideoError, VideoErrorCode

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """A probed video and its clips, in order."""

    info: VideoInfo
    spans: list[Span]


class GuardedDecoder:
    """Probe and decode in a killable child process. Not for concurrent use: one for each caller."""

    def __init__(self, config: VideoConfig) -> None:
        self._config = config
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        self._warm_child()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def child_pid(self) -> int | None:
        """The process id of the child, if there is one."""
        return self._child.pid if self._child is not None else None

    def close(self) -> None:
        """End the child process and wait for it."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def interrupt(self) -> None:
        """Kill the child, from any thread: the request that it answers raises VideoError.

        A child that is still starting is not ended by this; call again while the request lasts.
        """
        child = self._child
        if child is not None:
            child.signal_kill()

    def plan(self, source: VideoSource) -> VideoPlan:
        """Probe a video and cut it into clips.

        ``source`` is a local path, or a picklable function without arguments that opens a seekable
        binary file; it is called in the child. Raises VideoError; what the opener raises other than
        OSError comes through as it is.
        """
        with self._request(Stage.PROBE, PlanRequest(source), "plan_timeout_s") as child:
            info, spans = child.receive()
        return VideoPlan(info, spans)

    def decode(
        self,
        source: VideoSource,
        info: VideoInfo,
        span: Span,
        sampling: FrameSamplingConfig | None = None,
    ) -> DecodedFrames:
        """The sampled frames of one clip (see decode_frames). Raises VideoError.

        ``sampling`` is for this clip alone; None is the configured one.
        """
        request = decoder_process.DecodeRequest(source, info, span, sampling)
        with self._request(Stage.DECODE, request, "timeout_s") as child:
            header: FramesHeader = child.receive()
            frames = np.empty(header.shape, np.uint8)
            child.receive_bytes(frames.reshape(-1).data)
        return DecodedFrames(frames, header.timestamps_s)

    @contextmanager
    def _request(
        self, stage: Stage, request: Any, limit: Literal["plan_timeout_s", "timeout_s"]
    ) -> Iterator[_Child]:
        """Send a request and read the answer inside the block, under one of the wall clocks."""
        child = self._warm_child()
        timeout_s: float = getattr(self._config.limits, limit)
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            child.signal_kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            child.send(request)
            yield child
        except _ChildGoneError as error:
            self.close()
            if timed_out.is_set():
                message = (
                    f"no answer in {timeout_s:g} s (video.limits.{limit}); "
                    "the decode process was killed"
                )
                raise VideoError(VideoErrorCode.TIMEOUT, stage, message) from error
            message = f"the decode process ended with {child.how_it_ended()}"
            raise VideoError(VideoErrorCode.DECODER_CRASHED, stage, message) from error
        except VideoError as error:
            if error.code is VideoErrorCode.OUT_OF_MEMORY:
                self.close()  # its heap is full or in pieces
            raise
        except BaseException:
            self.close()  # the answer may be half read
            raise
        finally:
            timer.cancel()
            timer.join()
            if timed_out.is_set():
                self.close()  # the answer and the clock came together

    def _warm_child(self) -> _Child:
        if self._child is None:
            self._child = _Child(self._config)
        return self._child


class _ChildGoneError(Exception):
    """The child hung up."""


class _Child:
    """The process and the socket to it."""

    def __init__(self, config: VideoConfig) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    decoder_process.__name__,
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = Connection(ours.detach())
        self.send(config)
        if not self._connection.poll(_START_TIMEOUT_S):
            self.kill()
            raise RuntimeError(f"the decode process did not start in {_START_TIMEOUT_S:.0f} s")
        try:
            self.receive()
        except _ChildGoneError as error:
            self.kill()
            message = f"the decode process did not start: {self.how_it_ended()}"
            raise RuntimeError(message) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except ConnectionError as error:
            raise _ChildGoneError from error

    def receive(self) -> Any:
        """One answer; what the child raised is raised here."""
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise _ChildGoneError from error
        if isinstance(message, Raised):
            message.error.add_note(f"in the decode process:\n{message.traceback}")
            raise message.error
        return message

    def receive_bytes(self, buffer: memoryview) -> None:
        """Fill the buffer with raw bytes: Connection would copy them twice."""
        while buffer:
            try:
                num_bytes = os.readv(self._connection.fileno(), [buffer])
            except ConnectionError as error:
                raise _ChildGoneError from error
            if num_bytes == 0:
                raise _ChildGoneError
            buffer = buffer[num_bytes:]

    def signal_kill(self) -> None:
        self._process.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def how_it_ended(self) -> str:
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

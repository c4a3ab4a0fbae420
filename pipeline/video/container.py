"""Opening a file with FFmpeg's demuxer; FFmpeg's errors, and its silence about damage, in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

import av
import av.error
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.records import Stage
from pipeline.video.errors import VideoError, VideoErrorCode

Source: TypeAlias = str | BinaryIO
"""A local path, or a seekable binary file object (range reads from object storage)."""

# Containers only. Without the list a file that is really a playlist (HLS, concat, DASH) would make
# FFmpeg open whatever addresses are written in it.
_FORMATS = "mov,matroska,avi,ogg,mpegts,mpeg,flv,asf"

# These demuxers skip damage, find the next piece that makes sense and go on: the log alone tells.
_RESYNCHRONISING = frozenset({"matroska,webm", "ogg"})
_COUNTS_PACKETS = frozenset({"avi", "mpeg", "ogg"})
_CORRUPT_PACKET = "Packet corrupt"
_CUT_OFF = "File ended prematurely"  # found by its times, and then called truncated


class OpenVideo:
    """An open container and its video stream, with what is peculiar to the format.

    Attributes: ``origin``, the first frame's time, and ``tick_s``, the unit of time stamps;
    ``has_pts``: packets say when their frame is shown (AVI keeps the order of decoding only);
    ``stamps_packets``: every packet carries its time (AVI, Ogg and MPEG program streams count from
    the last one known); ``can_seek``: times after a seek are those of a full pass.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, logs: list[tuple[int, str, str]]
    ) -> None:
        self.container = container
        self.stream = stream
        self.origin = stream.start_time or 0
        self.tick_s = float(stream.time_base or 1)
        name = container.format.name
        self.has_pts = not (name == "avi" and stream.codec_context.has_b_frames)
        self.stamps_packets = name not in _COUNTS_PACKETS
        self.can_seek = self.has_pts and name != "mpeg"
        self._logs = logs

    def packets(self) -> Iterator[Packet]:
        """Packets of the video stream from here on; the last one is empty and flushes."""
        return self.container.demux(self.stream)

    def seek(self, ticks: int) -> None:
        """To the keyframe before a time, as well as the container can. Raises VideoError."""
        try:
            self.container.seek(ticks, stream=self.stream)
        except av.error.FFmpegError as error:
            message = f"can't seek to {(ticks - self.origin) * self.tick_s:.3f} s: {error.strerror}"
            raise VideoError(VideoErrorCode.CORRUPT, Stage.DECODE, message) from error

    def take_damage(self) -> str | None:
        """What the demuxer said of damage since the last call."""
        name = self.container.format.name
        damage = [
            message.strip()
            for level, logger, message in self._logs
            if logger == name
            and not message.startswith(_CUT_OFF)
            and (
                message.startswith(_CORRUPT_PACKET)
                or (name in _RESYNCHRONISING and level <= av.logging.ERROR)
            )
        ]
        self._logs.clear()
        return f"damage in the container ({damage[0]})" if damage else None


@contextmanager
def open_video(source: Source, stage: Stage) -> Iterator[OpenVideo]:
    """Open the first moving picture of a file; every FFmpeg error inside is a VideoError."""
    if source_size_bytes(source) == 0:
        raise VideoError(VideoErrorCode.EMPTY, stage, "the file has 0 bytes")
    try:
        with reading(), _captured_logs() as logs, _open(source, stage) as container:
            yield OpenVideo(container, _video_stream(container, stage), logs)
    except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
        raise VideoError(VideoErrorCode.UNSUPPORTED_CODEC, stage, str(error)) from error
    except MemoryError as error:
        message = (
            "more memory needed than video.limits.max_memory_bytes lets the decode process have"
        )
        raise VideoError(VideoErrorCode.OUT_OF_MEMORY, stage, message) from error
    except av.error.FFmpegError as error:
        raise VideoError(VideoErrorCode.CORRUPT, stage, str(error)) from error


def source_size_bytes(source: Source) -> int:
    """Size of the source, which is left at its beginning. Raises VideoError."""
    with reading():
        if isinstance(source, str):
            return os.path.getsize(source)
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        return size


_OF_DAMAGE = (errno.EPERM, errno.EIO)


@contextmanager
def reading() -> Iterator[None]:
    """OSError inside is a VideoError of the reading stage, unless FFmpeg means the file's content.

    Of damage FFmpeg says EPERM or EIO (a source's own reads raise their own errors), or it seeks to
    before the beginning (EINVAL).
    """
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(VideoErrorCode.NOT_FOUND, Stage.READ, str(error)) from error
    except OSError as error:
        is_ffmpegs = isinstance(error, av.error.FFmpegError)
        if error.errno == errno.EINVAL or (is_ffmpegs and error.errno in _OF_DAMAGE):
            raise VideoError(VideoErrorCode.CORRUPT, Stage.READ, str(error)) from error
        raise VideoError(VideoErrorCode.READ_FAILED, Stage.READ, str(error)) from error


@contextmanager
def _captured_logs() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's warnings as (level, who, text) in a list instead of on stderr."""
    level, skip_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_skip_repeated(skip_repeated)
        av.logging.set_level(level)


def _open(source: Source, stage: Stage) -> InputContainer:
    try:
        return av.open(
            source, mode="r", options={"format_whitelist": _FORMATS}, metadata_errors="replace"
        )
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        code, message = _why_not_opened(source)
        raise VideoError(code, stage, message) from error


def _why_not_opened(source: Source) -> tuple[VideoErrorCode, str]:
    """A container that is cut or damaged still begins like one."""
    size_bytes = source_size_bytes(source)
    if isinstance(source, str):
        with open(source, "rb") as file:
            head = file.read(8)
    else:
        head = source.read(8)
    if head[4:] == b"ftyp":
        message = "an MP4 file without its index (moov): the end of the file is missing"
        return VideoErrorCode.TRUNCATED, message
    if head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") + 8 > size_bytes:
        message = f"an AVI file of {int.from_bytes(head[4:], 'little') + 8} bytes has {size_bytes}"
        return VideoErrorCode.TRUNCATED, message
    if head.startswith((b"RIFF", b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01")):
        return VideoErrorCode.CORRUPT, "begins like a video container and then makes no sense"
    return VideoErrorCode.NOT_A_VIDEO, f"none of the containers {_FORMATS} recognises the bytes"


def _video_stream(container: InputContainer, stage: Stage) -> VideoStream:
    name = container.format.name
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        message = f"a {name} file without a moving picture"
        raise VideoError(VideoErrorCode.NO_VIDEO_STREAM, stage, message)
    if stream.codec_context is None:
        message = f"no decoder for the video stream of this {name} file"
        raise VideoError(VideoErrorCode.UNSUPPORTED_CODEC, stage, message)
    # One thread: the parallelism is over files. A thread per core in each of a node's decode
    # processes would cost memory, and errors would surface at the wrong packet.
    stream.codec_context.thread_count = 1
    return stream

"""Opening a file with FFmpeg's demuxer, and FFmpeg's errors in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeAlias

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.records import Stage
from pipeline.video.errors import VideoError, VideoErrorCode

Source: TypeAlias = str | BinaryIO
"""A local path, or a seekable binary file object (range reads from object storage)."""

# Containers only. Without the list a file that is really a playlist (HLS, concat, DASH) would make
# FFmpeg open whatever addresses are written in it.
_FORMATS = "mov,matroska,avi,ogg,mpegts,mpeg,flv,asf"


@contextmanager
def open_video_stream(source: Source, stage: Stage) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first moving picture; every FFmpeg error inside is a VideoError."""
    if source_size_bytes(source, stage) == 0:
        raise VideoError(VideoErrorCode.EMPTY, stage, "the file has 0 bytes")
    try:
        with _open(source, stage) as container:
            yield container, _video_stream(container, stage)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise VideoError(VideoErrorCode.CORRUPT, stage, str(error)) from error
    except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
        raise VideoError(VideoErrorCode.UNSUPPORTED_CODEC, stage, str(error)) from error
    except av.error.MemoryError as error:
        raise VideoError(VideoErrorCode.OUT_OF_MEMORY, stage, str(error)) from error
    except OSError as error:
        raise VideoError(VideoErrorCode.READ_FAILED, Stage.READ, str(error)) from error
    except av.error.FFmpegError as error:
        raise VideoError(VideoErrorCode.CORRUPT, stage, str(error)) from error


def source_size_bytes(source: Source, stage: Stage) -> int:
    """Size of the source, which is left at its beginning."""
    try:
        if isinstance(source, str):
            return os.path.getsize(source)
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        return size
    except FileNotFoundError as error:
        raise VideoError(VideoErrorCode.NOT_FOUND, Stage.READ, str(error)) from error
    except OSError as error:
        raise VideoError(VideoErrorCode.READ_FAILED, Stage.READ, str(error)) from error


def _open(source: Source, stage: Stage) -> InputContainer:
    try:
        return av.open(
            source, mode="r", options={"format_whitelist": _FORMATS}, metadata_errors="replace"
        )
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        # An index at the end of the file that was cut off looks exactly like noise, except that
        # the file still begins like the container it was.
        if _begins_like_mp4(source):
            message = "an MP4 file whose index (moov) is missing: the end of the file is lost"
            raise VideoError(VideoErrorCode.TRUNCATED, stage, message) from error
        message = f"no container format of {_FORMATS} recognises the bytes"
        raise VideoError(VideoErrorCode.NOT_A_VIDEO, stage, message) from error


def _begins_like_mp4(source: Source) -> bool:
    if isinstance(source, str):
        with open(source, "rb") as file:
            head = file.read(8)
    else:
        source.seek(0)
        head = source.read(8)
    return head[4:] == b"ftyp"


def _video_stream(container: InputContainer, stage: Stage) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            break
    else:
        message = f"a {container.format.name} file without a moving picture"
        raise VideoError(VideoErrorCode.NO_VIDEO_STREAM, stage, message)
    if stream.codec_context is None:
        message = f"no decoder for the video stream of this {container.format.name} file"
        raise VideoError(VideoErrorCode.UNSUPPORTED_CODEC, stage, message)
    # One thread: the parallelism is over files, and a frame thread per core in each of a node's
    # decode processes would cost memory and make errors surface at the wrong packet.
    stream.codec_context.thread_count = 1
    return stream

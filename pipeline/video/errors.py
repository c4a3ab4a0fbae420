"""What can be wrong with a video: data about the file, never a bug of ours."""

from __future__ import annotations

from enum import StrEnum

from pipeline.records import Stage


class VideoErrorCode(StrEnum):
    """Stable names of what is wrong; they are written to the failures table."""

    NOT_FOUND = "not_found"
    """There is no such file any more."""
    READ_FAILED = "read_failed"
    """The bytes could not be read (network, permissions, disk)."""
    EMPTY = "empty"
    """Zero bytes."""
    NOT_A_VIDEO = "not_a_video"
    """No container format we accept recognises the bytes."""
    TRUNCATED = "truncated"
    """The container promises more than the file holds."""
    CORRUPT = "corrupt"
    """Damaged in the middle: a frame we need can't be decoded."""
    NO_VIDEO_STREAM = "no_video_stream"
    """A media file with no moving picture (audio, cover art)."""
    UNSUPPORTED_CODEC = "unsupported_codec"
    """There is no decoder for the video stream."""
    NO_FRAMES = "no_frames"
    """A video stream with not one decodable frame."""
    ZERO_DURATION = "zero_duration"
    """The frames take up no time."""
    TOO_LARGE_PX = "too_large_px"
    """A source frame has more pixels than the limit."""
    TOO_LONG = "too_long"
    """The video is longer than the limit."""
    TIMEOUT = "timeout"
    """Wall-clock limit reached; the decode process was killed."""
    OUT_OF_MEMORY = "out_of_memory"
    """The decode process reached its memory limit."""
    DECODER_CRASHED = "decoder_crashed"
    """The decode process died (a crash inside a codec library)."""


class VideoError(Exception):
    """One video or clip that can't be used: a stable code, the stage, and a message for people."""

    def __init__(self, code: VideoErrorCode, stage: Stage, message: str) -> None:
        super().__init__(code, stage, message)  # all arguments, so that it pickles
        self.code = code
        self.stage = stage
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

"""Why the endpoint has no video for a request: HTTP status, stable code, and words for the client.

Messages name the remedy; never an address of our network, a path of this machine or a credential.
What is wrong with the file itself is a VideoError (pipeline/video/errors.py).
"""

from __future__ import annotations


class VideoSourceError(Exception):
    """``status`` is the HTTP status to answer with, ``code`` is stable, ``message`` for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)  # all arguments, so that it pickles
        self.status = status
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class VideoRefusedError(VideoSourceError):
    """The request itself: malformed or out of bounds (400), or not allowed here (403)."""


class VideoFetchError(VideoSourceError):
    """Allowed, but it did not come: missing (400), too large (413), failed (502), late (504)."""


INVALID_URL = "invalid_video_url"
NOT_ALLOWED = "video_url_not_allowed"


def invalid_url(reason: str) -> VideoRefusedError:
    """400: no URL of a video."""
    return VideoRefusedError(400, INVALID_URL, f"the video's URL can't be used: {reason}")


def not_allowed(reason: str) -> VideoRefusedError:
    """403: a good URL that this endpoint does not read."""
    return VideoRefusedError(403, NOT_ALLOWED, reason)


def too_large(max_bytes: int) -> VideoFetchError:
    """413: more bytes than the limit."""
    return VideoFetchError(
        413,
        "video_too_large",
        f"the video has more than {max_bytes} bytes (serving.video_access.max_bytes): "
        "send a shorter or smaller one",
    )

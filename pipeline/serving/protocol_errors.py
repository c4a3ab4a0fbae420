"""Errors as OpenAI's API gives them, and which of ours is which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict

from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.models.base import ClipInputError
from pipeline.serving.generation import DeadlineError, EngineGoneError, QueueFullError
from pipeline.serving.video_errors import VideoFetchError, VideoRefusedError
from pipeline.video.errors import VideoError

TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
"""Words of `type`; others are invalid_request_error below 500 and server_error from 500 on."""


class ErrorBody(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    message: str
    """For people."""
    type: str
    """Whose fault."""
    param: str | None
    """The field of the request that is meant."""
    code: str | None
    """For programs."""


class ErrorResponse(BaseModel):
    """An answer that is none."""

    model_config = ConfigDict(frozen=True)

    error: ErrorBody


class ApiError(Exception):
    """An answer with a status of 400 or more."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")  # the message may hold what a user wrote
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        kind = TYPES.get(HTTPStatus(status))
        if kind is None:
            kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
        self.body = ErrorBody(
            message=message, type=kind or "invalid_request_error", param=param, code=code
        )


ANSWERED_ERRORS = (
    VideoRefusedError,
    VideoFetchError,
    VideoError,
    ClipInputError,
    PromptTooLongError,
    QueueFullError,
    DeadlineError,
    EngineGoneError,
)
"""What may come of an answer; anything else is a bug of ours."""


def api_error_of(error: Exception) -> ApiError:
    """The answer to one of ANSWERED_ERRORS, or the error itself if it is an answer."""
    match error:
        case ApiError():
            return error
        case VideoRefusedError() | VideoFetchError():
            return ApiError(error.status, error.code, error.message, param="video_url")
        case VideoError():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return ApiError(status, error.code.value, error.message, param="video_url")
        case ClipInputError():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            return ApiError(status, "clip_input", str(error), param="video_url")
        case PromptTooLongError():
            message = (
                f"the prompt of {error.prompt_tokens} tokens and max_tokens do not fit this "
                "endpoint's memory: ask for fewer frames (media_io_kwargs.video.num_frames), a "
                "shorter conversation or a smaller max_tokens"
            )
            return ApiError(HTTPStatus.BAD_REQUEST, "context_length_exceeded", message, "messages")
        case QueueFullError():
            seconds = str(max(1, math.ceil(error.retry_after_s)))
            return ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "queue_full",
                f"too many requests wait already; try again in {seconds} s",
                headers={"Retry-After": seconds},
            )
        case DeadlineError():
            message = "the answer was not ready in the time that this endpoint gives a request"
            return ApiError(HTTPStatus.GATEWAY_TIMEOUT, "timeout", message)
        case EngineGoneError():
            message = "the engine has ended; the endpoint starts another, try again"
            return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "engine_gone", message)
    raise error

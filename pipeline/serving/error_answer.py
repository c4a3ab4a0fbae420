"""Whatever goes wrong is answered by an error object, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pipeline.metrics.endpoint_metrics import EndpointMetrics
from pipeline.serving.access_log import STATE
from pipeline.serving.body_limit import BodyError
from pipeline.serving.client_gone import ClientGoneError
from pipeline.serving.protocol_errors import (
    ANSWERED_ERRORS,
    ApiError,
    ErrorResponse,
    api_error_of,
)

_CLIENT_GONE = 499
_MAX_SHOWN = 200
_NOT_READ = {
    "image_url": "images are not read, only one video a conversation (video_url)",
    "input_audio": "audio is not read, only one video a conversation (video_url)",
    "audio_url": "audio is not read, only one video a conversation (video_url)",
}


def error_answer(error: ApiError) -> JSONResponse:
    """The response that is an error."""
    content = ErrorResponse(error=error.body).model_dump(mode="json")
    return JSONResponse(content, error.status, headers=error.headers)


def answer_errors(app: FastAPI, metrics: EndpointMetrics) -> None:
    """Make the application answer by error objects."""

    async def refuse(request: Request, error: Exception) -> Response:
        """Of the request itself; what comes of an answer is counted where it comes from."""
        api_error = _refusal(error)
        metrics.refused(api_error.code)
        return _told(request, api_error)

    async def fail(request: Request, error: Exception) -> Response:
        return _told(request, api_error_of(error))

    async def leave(request: Request, error: Exception) -> Response:
        return Response(status_code=_CLIENT_GONE)  # nobody reads it; the log has it

    for refusal in (ApiError, RequestValidationError, HTTPException):
        app.add_exception_handler(refusal, refuse)
    for failure in ANSWERED_ERRORS:
        app.add_exception_handler(failure, fail)
    app.add_exception_handler(ClientGoneError, leave)


def _told(request: Request, error: ApiError) -> Response:
    getattr(request.state, STATE)["code"] = error.code
    return error_answer(error)


def _refusal(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _invalid(error)
        case BodyError():
            return ApiError(error.status_code, error.code, error.detail, headers=error.headers)
        case HTTPException():
            status = HTTPStatus(error.status_code)
            code = status.phrase.lower().replace(" ", "_")
            return ApiError(
                status, code, f"{status.phrase}: {_HINTS[status]}", headers=error.headers
            )
    raise error


_HINTS = {
    HTTPStatus.BAD_REQUEST: "the body is no JSON that can be read",
    HTTPStatus.NOT_FOUND: "there is no such path; /openapi.json lists them",
    HTTPStatus.METHOD_NOT_ALLOWED: "the path has other methods; /openapi.json lists them",
}
"""Of the exceptions that FastAPI itself raises."""


def _invalid(error: RequestValidationError) -> ApiError:
    """The mistake that lies deepest: a value fits none of several forms, and one is meant."""
    errors: Sequence[Mapping[str, Any]] = error.errors()
    mistake = max(errors, key=lambda item: len(item["loc"]))
    if mistake["type"] == "json_invalid":
        return ApiError(HTTPStatus.BAD_REQUEST, "invalid_json", "the body is no valid JSON")
    keys = _keys(mistake["loc"], error.body)
    param = ".".join(map(str, keys))[:_MAX_SHOWN] or None
    message, code = mistake["msg"].removeprefix("Value error, ")[:_MAX_SHOWN], "invalid_value"
    if mistake["type"] == "extra_forbidden":
        message, code = "not supported by this endpoint", "unsupported_parameter"
    elif mistake["type"] == "union_tag_invalid":
        kind = str(mistake.get("ctx", {}).get("tag", ""))
        message = _NOT_READ.get(kind, message)
    elif not keys:
        message = "a JSON object is wanted, sent as application/json"
    shown = f"{param}: {message}" if param else message
    return ApiError(HTTPStatus.BAD_REQUEST, code, shown, param)


def _keys(location: Sequence[Any], body: Any) -> list[Any]:
    """The keys of a location that are in the body, without pydantic's words for the forms tried."""
    keys: list[Any] = []
    value = body
    for place, key in enumerate(location):
        if place == 0 and key == "body":
            continue
        is_item = isinstance(value, list) and isinstance(key, int) and key < len(value)
        if is_item or (isinstance(value, dict) and key in value):
            value = value[key]
        elif not (isinstance(value, dict) and place == len(location) - 1):
            continue  # the name of a form
        keys.append(key)
    return keys

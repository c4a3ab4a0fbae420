"""What /v1/captions takes and gives: one prompt, many clips, an outcome for each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.serving.openai_fields import Message
from pipeline.serving.protocol import (
    Fps,
    LvspecOptions,
    MaxTokens,
    Name,
    NumFrames,
    Seconds,
    Seed,
    Temperature,
    Text,
    Url,
)
from pipeline.serving.protocol_errors import ErrorBody
from pipeline.serving.protocol_response import Reply, SpeculationStats, Usage


class Clip(Message):
    """A clip to caption."""

    url: Url
    """Of its video, as in a `video_url` part of a chat."""
    prompt: Text | None = None
    """Instead of the request's."""
    start_s: Seconds | None = None
    """Begin of the clip, s from the beginning of the video; without it the beginning."""
    end_s: Seconds | None = None
    """End of the clip, s from the beginning of the video; without it the end."""
    num_frames: NumFrames | None = None
    """This many frames, spread evenly ..."""
    fps: Fps | None = None
    """... or this many a second; without both as the endpoint is configured."""


class CaptionsRequest(Message):
    """Clips to caption."""

    clips: Annotated[list[Clip], Field(min_length=1)]
    """At most as many as the endpoint is configured for."""
    prompt: Text | None = None
    """Without it as the endpoint is configured."""
    model: Name | None = None
    """One of /v1/models."""
    max_tokens: MaxTokens | None = None
    """Most tokens of a caption; without it as the endpoint is configured."""
    temperature: Temperature | None = None
    """0 is greedy; without it as the endpoint is configured."""
    seed: Seed | None = None
    """Of sampling."""
    lvspec: LvspecOptions = LvspecOptions()


class Captioned(Reply):
    """A clip and its caption."""

    index: int
    """Of the clip in the request."""
    status: Literal["captioned"] = "captioned"
    caption: str
    finish_reason: Literal["stop", "length"]
    usage: Usage
    speculation: SpeculationStats


class NotCaptioned(Reply):
    """A clip that has no caption, and why."""

    index: int
    """Of the clip in the request."""
    status: Literal["failed"] = "failed"
    error: ErrorBody


Outcome = Annotated[Captioned | NotCaptioned, Field(discriminator="status")]


class CaptionsResponse(Reply):
    """One outcome for each clip, in the order of the request."""

    id: str
    object: Literal["list"] = "list"
    created: int
    """When the request came, seconds since 1970."""
    model: str
    data: list[Outcome]
    num_failed: int

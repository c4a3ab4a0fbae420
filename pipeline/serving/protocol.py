"""What a request to /v1/chat/completions holds, as OpenAI and vLLM spell it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.serving.openai_fields import IgnoredFields, Message, NeutralFields, NoItems, On

Text = Annotated[str, Field(max_length=1 << 20)]
Name = Annotated[str, Field(min_length=1, max_length=512)]
Url = Annotated[str, Field(min_length=1)]
"""Without a limit of its own: a data URL is as long as its video, and the body has a limit."""
Seconds = Annotated[float, Field(ge=0, le=1e6)]
NumFrames = Annotated[int, Field(ge=1, le=100_000)]
Fps = Annotated[float, Field(gt=0, le=1000)]
MaxTokens = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Seed = Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class VideoUrl(Message):
    """Where a video is."""

    url: Url
    """`https:`, `data:video/...;base64,`, `s3:` or `file:`, as far as the endpoint allows it."""


class VideoSpan(Message):
    """The part of the video that is meant; the whole without it."""

    start_s: Seconds | None = None
    """Begin, s from the beginning of the video."""
    end_s: Seconds | None = None
    """End, s from the beginning of the video."""


class TextPart(Message):
    """Some text of a message."""

    type: Literal["text"]
    text: Text


class VideoPart(Message):
    """The video of a conversation."""

    type: Literal["video_url"]
    video_url: VideoUrl
    video_metadata: VideoSpan | None = None


UserPart = Annotated[TextPart | VideoPart, Field(discriminator="type")]
Texts = Annotated[list[TextPart], Field(min_length=1, max_length=64)]
UserParts = Annotated[list[UserPart], Field(min_length=1, max_length=64)]


class SystemMessage(Message):
    """How to answer; the first message, if there is one."""

    role: Literal["system", "developer"]
    content: Text | Texts
    name: str | None = None


class UserMessage(Message):
    """What is asked. Its video, if it has one, comes before its text, whatever their order here."""

    role: Literal["user"]
    content: Text | UserParts
    name: str | None = None


class AssistantMessage(Message):
    """An earlier answer. Takes what a response's message holds, so that it can be sent back."""

    role: Literal["assistant"]
    content: Text | Texts
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: NoItems | None = None
    annotations: NoItems | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Message):
    """How an answer is streamed."""

    include_usage: bool | None = None
    """A last chunk has the token counts."""
    include_obfuscation: bool | None = None
    """Without effect: chunks have no padding."""


class FrameSampling(Message):
    """Which frames the model sees: a number or a rate. Neither: as the endpoint is configured."""

    num_frames: NumFrames | None = None
    """This many frames, spread evenly."""
    fps: Fps | None = None
    """Frames a second."""


class MediaIoKwargs(Message):
    """vLLM's `media_io_kwargs`: how media are read."""

    video: FrameSampling | None = None


class ProcessorKwargs(FrameSampling):
    """vLLM's `mm_processor_kwargs`, as far as they mean frames."""

    do_sample_frames: On | None = None


class LvspecOptions(Message):
    """What this endpoint alone offers."""

    exact: bool = False
    """The target's own text, also where the endpoint decodes loosely."""
    return_tokens: bool = False
    """Say of every token why it is there."""


class ChatCompletionRequest(IgnoredFields, NeutralFields):
    """A conversation about at most one video."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=512)]
    """System (at most one, first), user and assistant; the last one is the user's."""
    model: Name | None = None
    """One of /v1/models."""
    max_tokens: MaxTokens | None = None
    """Most tokens of the answer; without it as the endpoint is configured."""
    max_completion_tokens: MaxTokens | None = None
    """OpenAI's newer name of max_tokens."""
    temperature: Temperature | None = None
    """0 is greedy; without it as the endpoint is configured."""
    seed: Seed | None = None
    """Of sampling."""
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    """Texts that end the answer, not part of it."""
    stream: bool | None = None
    """Server-sent events, one chunk for each round of decoding."""
    stream_options: StreamOptions | None = None
    media_io_kwargs: MediaIoKwargs | None = None
    mm_processor_kwargs: ProcessorKwargs | None = None
    lvspec: LvspecOptions = LvspecOptions()

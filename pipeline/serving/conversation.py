"""From a request to what the engine and the video loader are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.config import GenerationConfig, PromptConfig
from pipeline.models.base import Turn
from pipeline.serving.generation import GenerationOptions
from pipeline.serving.protocol import (
    AssistantMessage,
    ChatCompletionRequest,
    FrameSampling,
    SystemMessage,
    TextPart,
    UserMessage,
    VideoPart,
    VideoSpan,
)
from pipeline.serving.protocol_captions import CaptionsRequest, Clip
from pipeline.serving.protocol_errors import ApiError
from pipeline.serving.video_loader import VideoRequest

_BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation, ready to be answered once its video is decoded."""

    turns: tuple[Turn, ...]
    video: VideoRequest | None
    options: GenerationOptions


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the endpoint's configuration says where a request says nothing."""

    prompt: PromptConfig
    generation: GenerationConfig

    def chat_question(self, request: ChatCompletionRequest) -> Question:
        """What a chat asks. Raises ApiError (400) that names the field."""
        _check_order(request.messages)
        sampling = _sampling(request)
        video: VideoRequest | None = None
        turns: list[Turn] = []
        for place, message in enumerate(request.messages):
            param = f"messages.{place}.content"
            text, part = _text_of(message), _video_of(message, param)
            if part is not None:
                if video is not None:
                    raise _refusal(
                        "a second video: a conversation is about one; leave it out of later "
                        "messages, which still mean it",
                        param,
                    )
                span = part.video_metadata or VideoSpan()
                video = _video_request(part.video_url.url, span, sampling)
                text = text or self.prompt.text
            if not text:
                raise _refusal("no text", param)
            turns.append(Turn(_role_of(message), text, has_video=part is not None))
        if self.prompt.system is not None and turns[0].role != "system":
            turns.insert(0, Turn("system", self.prompt.system))
        options = GenerationOptions(
            max_tokens=_max_tokens(request) or self.generation.max_tokens,
            temperature=self._temperature(request.temperature),
            seed=self.generation.seed if request.seed is None else request.seed,
            stop=_stop(request.stop),
            exact=request.lvspec.exact,
        )
        return Question(tuple(turns), video, options)

    def caption_question(self, request: CaptionsRequest, clip: Clip) -> Question:
        """What is asked of one clip. Raises ApiError (400) that names the field."""
        sampling = FrameSampling(num_frames=clip.num_frames, fps=clip.fps)
        span = VideoSpan(start_s=clip.start_s, end_s=clip.end_s)
        text = clip.prompt or request.prompt or self.prompt.text
        turns = [Turn("user", text, has_video=True)]
        if self.prompt.system is not None:
            turns.insert(0, Turn("system", self.prompt.system))
        options = GenerationOptions(
            max_tokens=request.max_tokens or self.generation.max_tokens,
            temperature=self._temperature(request.temperature),
            seed=self.generation.seed if request.seed is None else request.seed,
            exact=request.lvspec.exact,
        )
        return Question(tuple(turns), _video_request(clip.url, span, sampling), options)

    def _temperature(self, asked: float | None) -> float:
        return self.generation.temperature if asked is None else asked


def _refusal(message: str, param: str) -> ApiError:
    return ApiError(_BAD_REQUEST, "invalid_value", f"{param}: {message}", param)


def _check_order(messages: Sequence[SystemMessage | UserMessage | AssistantMessage]) -> None:
    for place, message in enumerate(messages):
        if isinstance(message, SystemMessage) and place > 0:
            raise _refusal("a system message is the first one", f"messages.{place}.role")
    if not isinstance(messages[-1], UserMessage):
        raise _refusal("the last message is the user's", f"messages.{len(messages) - 1}.role")


def _role_of(
    message: SystemMessage | UserMessage | AssistantMessage,
) -> Literal["system", "user", "assistant"]:
    return "system" if message.role == "developer" else message.role


def _text_of(message: SystemMessage | UserMessage | AssistantMessage) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def _video_of(
    message: SystemMessage | UserMessage | AssistantMessage, param: str
) -> VideoPart | None:
    if isinstance(message.content, str):
        return None
    parts = [part for part in message.content if isinstance(part, VideoPart)]
    if len(parts) > 1:
        raise _refusal("two videos: a conversation is about one", param)
    return parts[0] if parts else None


def _sampling(request: ChatCompletionRequest) -> FrameSampling:
    """The frames that are asked for, by either of vLLM's two fields. Raises ApiError."""
    media = request.media_io_kwargs.video if request.media_io_kwargs else None
    processor = request.mm_processor_kwargs
    asked = [
        sampling
        for sampling in (media, processor)
        if sampling is not None and (sampling.num_frames, sampling.fps) != (None, None)
    ]
    if len(asked) > 1:
        raise _refusal("media_io_kwargs says so already: set one of both", "mm_processor_kwargs")
    return asked[0] if asked else FrameSampling()


def _video_request(url: str, span: VideoSpan, sampling: FrameSampling) -> VideoRequest:
    return VideoRequest(
        url=url,
        num_frames=sampling.num_frames,
        fps=sampling.fps,
        start_s=span.start_s,
        end_s=span.end_s,
    )


def _max_tokens(request: ChatCompletionRequest) -> int | None:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise _refusal("max_completion_tokens says otherwise: set one of both", "max_tokens")
    return old if new is None else new


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)

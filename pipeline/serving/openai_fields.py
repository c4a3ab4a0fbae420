"""Fields of OpenAI's and vLLM's requests that this endpoint takes without doing anything.

Some change nothing in an answer, some are taken only with the value that changes nothing. A field
that is neither here nor in protocol.py is refused, so that nobody gets another answer than they
asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema


def _is_off(value: bool) -> bool:
    if value:
        raise ValueError("only false is taken")
    return value


def _is_on(value: bool) -> bool:
    if not value:
        raise ValueError("only true is taken")
    return value


# Not Literal[False], which takes a 0 as well.
Off = Annotated[bool, AfterValidator(_is_off), WithJsonSchema({"type": "boolean", "enum": [False]})]
On = Annotated[bool, AfterValidator(_is_on), WithJsonSchema({"type": "boolean", "enum": [True]})]

Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
NoItems = Annotated[list[Any], Field(max_length=0)]
NoKeys = Annotated[dict[str, Any], Field(max_length=0)]


class Message(BaseModel):
    """Base of all that a request holds: frozen, no unknown key, no value of another type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class TextFormat(Message):
    """The one format of an answer."""

    type: Literal["text"]


class IgnoredFields(Message):
    """Bookkeeping and hints; an answer is the same with and without them."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None


class NeutralFields(Message):
    """Taken only with a value that changes nothing; any other is an error that names the field."""

    n: Annotated[int, Field(ge=1, le=1)] | None = None
    top_p: One | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: NoKeys | None = None
    logprobs: Off | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    tools: NoItems | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: NoItems | None = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    top_k: Annotated[int, Field(ge=-1, le=0)] | None = None
    min_p: Zero | None = None
    repetition_penalty: One | None = None

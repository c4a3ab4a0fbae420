"""What the endpoint answers: OpenAI's objects, and `speculation` beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.decoding.quantile import is_filler
from pipeline.records import TokenDecision
from pipeline.serving.generation import Committed, Finished

Count = Annotated[int, Field(ge=0)]
Duration = Annotated[float, Field(ge=0)]
FinishWord = Literal["stop", "length"]


class Reply(BaseModel):
    """Base of all that is answered."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Token(Reply):
    """One token and why it is there."""

    text: str
    """Of this token alone; empty for half a character and for marks."""
    kind: Literal["exact", "relaxed", "shifted", "correction", "bonus"]
    """exact, relaxed, shifted: the draft's; correction, bonus: the target's."""
    anchor_rank: float | None
    """How visual the token is among those of its clip, 0 to 1; None where nothing scored it."""
    is_anchor: bool | None
    """Whether it was so visual that it had to be the target's own; None where nothing says so."""


def tokens_of(round_: Committed) -> list[Token]:
    """The tokens of one round, and why each is there."""
    return [_token(decision, round_.relaxed_share) for decision in round_.tokens]


def _token(decision: TokenDecision, relaxed_share: float | None) -> Token:
    rank = decision.anchor_rank
    return Token.model_validate(
        {
            "text": decision.text,
            "kind": decision.kind,
            "anchor_rank": rank,
            "is_anchor": None
            if rank is None or relaxed_share is None
            else not is_filler(decision.anchor_score or 0.0, rank, relaxed_share),
        }
    )


class TokenDetail(Reply):
    """The extension field of a chunk that brings tokens."""

    tokens: list[Token]


class SpeculationStats(Reply):
    """What speculation did for one answer; counts are of tokens."""

    target_steps: Count
    """Steps of the target that verified drafts."""
    drafted_tokens: Count
    accepted_tokens: Count
    relaxed_tokens: Count
    """Accepted although the target's own choice was another."""
    shifted_tokens: Count
    """Accepted in another place than they were drafted for."""
    mean_accepted_length: Duration
    """Accepted tokens per target step, the bonus token not counted."""
    tokens_per_s: Duration
    """Tokens of the answer per second of decode_s; 0 of no seconds."""
    queue_s: Duration
    """From the hand-over to the engine to a slot, s."""
    first_token_s: Duration
    """From the hand-over to the engine to the first token, s."""
    prefill_s: Duration
    """Reading the prompt, s."""
    draft_s: Duration
    """This answer's share of drafting, s."""
    verify_s: Duration
    """This answer's share of verifying, s."""
    decode_s: Duration
    """This answer's share of all decoding after the prompt, s."""
    tokens: list[Token] | None = None
    """With lvspec.return_tokens, of an answer that is not streamed."""

    @classmethod
    def of(cls, end: Finished, tokens: list[Token] | None = None) -> SpeculationStats:
        """The statistics of an answer."""
        stats = end.stats
        return cls(
            target_steps=stats.target_steps,
            drafted_tokens=stats.drafted_tokens,
            accepted_tokens=stats.accepted_tokens,
            relaxed_tokens=stats.relaxed_tokens,
            shifted_tokens=stats.shifted_tokens,
            mean_accepted_length=stats.mean_accepted_length,
            tokens_per_s=stats.output_tokens / stats.decode_s if stats.decode_s > 0 else 0.0,
            queue_s=end.queue_s,
            first_token_s=end.first_token_s,
            prefill_s=stats.prefill_s,
            draft_s=stats.draft_s,
            verify_s=stats.verify_s,
            decode_s=stats.decode_s,
            tokens=tokens,
        )


class PromptTokensDetails(Reply):
    """What of the prompt was known."""

    cached_tokens: Count
    """Read from the prefix cache."""


class Usage(Reply):
    """Token counts."""

    prompt_tokens: Count
    """The video's tokens included."""
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, end: Finished) -> Usage:
        """The counts of an answer."""
        prompt, completion = end.stats.prompt_tokens, end.stats.output_tokens
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=end.num_cached_tokens),
        )


class AnswerMessage(Reply):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Reply):
    """The one choice."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: FinishWord


class ChatCompletion(Reply):
    """An answer as a whole."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """When the request came, seconds since 1970."""
    model: str
    choices: list[Choice]
    usage: Usage
    speculation: SpeculationStats


class Delta(Reply):
    """What a chunk adds to the answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Reply):
    """The one choice, continued."""

    index: Literal[0]
    delta: Delta
    finish_reason: FinishWord | None


class ChatCompletionChunk(Reply):
    """A piece of a streamed answer. What has a default is there only if it is set."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    """When the request came, seconds since 1970."""
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    speculation: SpeculationStats | TokenDetail | None = None


class Model(Reply):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When the endpoint started, seconds since 1970."""
    owned_by: Literal["lvspec"] = "lvspec"
    draft_model: str | None
    """The model that proposes tokens."""


class ModelList(Reply):
    """All models that can be asked."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(Reply):
    """The endpoint can answer, and so busy it is."""

    status: Literal["ok"] = "ok"
    num_running: Count
    num_waiting: Count
    num_slots: Count

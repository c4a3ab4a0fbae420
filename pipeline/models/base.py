"""What the pipeline asks of a Video-LLM, whatever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from pipeline.config import PromptConfig
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.session import NO_TAPS, DecodeSession, ModelInputs, Taps
from pipeline.records import DecodedClip


class ClipInputError(ValueError):
    """A clip that the model can't take, such as frames of a wrong size: the clip's fault."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; the clip, if it has one, comes before the text."""

    role: Literal["system", "user", "assistant"]
    text: str
    has_video: bool = False


def turns_of(prompt: PromptConfig) -> tuple[Turn, ...]:
    """The conversation that asks for a caption."""
    question = Turn("user", prompt.text, has_video=True)
    return (question,) if prompt.system is None else (Turn("system", prompt.system), question)


def check_turns(clip: DecodedClip | None, turns: Sequence[Turn]) -> None:
    """Raise ValueError unless there is a turn, and one with a video just if there is a clip."""
    num_videos = sum(turn.has_video for turn in turns)
    if not turns or num_videos != (clip is not None):
        has = "a clip" if clip is not None else "no clip"
        raise ValueError(f"{len(turns)} turns, {num_videos} of them with a video, and {has}")


class VideoLM(Protocol):
    """A Video-LLM: turns a clip and a prompt into inputs, and decodes in sessions."""

    @property
    def model_id(self) -> str:
        """Hub name or folder, as configured."""

    @property
    def revision(self) -> str:
        """What exactly was loaded: a commit, or a content digest for a folder."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a caption."""

    @property
    def vocab_size(self) -> int:
        """V of the tokenizer; embeddings of one family are padded differently, logits are not."""

    def prepare(self, clip: DecodedClip, prompt: PromptConfig) -> ModelInputs:
        """The clip and the prompt as the model takes them, on the CPU.

        Frames arrive in the model's size and at their true times; nothing is resized or resampled.
        Raises ClipInputError if the frames don't fit the model.
        """

    def converse(self, clip: DecodedClip | None, turns: Sequence[Turn]) -> ModelInputs:
        """A conversation as the model takes it; the clip belongs to the one turn with a video.

        Raises ClipInputError as ``prepare`` does, and ValueError if a turn has a video and there is
        no clip, or the other way round.
        """

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> DecodeSession:
        """Slots for ``num_slots`` rows of at most ``max_length`` tokens.

        Prompts whose beginning is among ``prefixes`` are read from there on; new ones join them.
        Raises ValueError if a tapped layer does not exist.
        """

    @property
    def num_layers(self) -> int:
        """Decoder layers."""

    @property
    def kv_bytes_per_token(self) -> int:
        """What one cached token takes in a session, bytes."""

    @property
    def device(self) -> torch.device:
        """Where the weights and the sessions are."""

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that are no text: ends, placeholders, marks of the chat."""

    def token_texts(self) -> Sequence[str]:
        """Each token as the tokenizer writes it (a leading blank may be a mark), V of them."""

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""

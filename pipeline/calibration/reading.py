"""Teacher forcing: what a model says of a given caption after a given prompt.

Shapes: L tokens of a caption, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import (
    NO_TAPS,
    DecodeSession,
    ForwardOutput,
    ModelInputs,
    PrefillOutput,
    Taps,
)
from pipeline.decoding.sessions import DecodingModel

_SPARE_TOKENS = 2


@dataclass(frozen=True, slots=True, eq=False)
class TargetCaption:
    """A clip and the caption that the target wrote of it, its end-of-sequence token included."""

    request: CaptionRequest
    token_ids: tuple[int, ...]


class OpenPrompt:
    """A prompt in a session, after which captions can be read, one after the other or in part."""

    def __init__(self, session: DecodeSession, slot: int, inputs: ModelInputs) -> None:
        self._session = session
        self._slot = slot
        self._prompt_length = inputs.num_tokens
        self.prefill: PrefillOutput = session.prefill(slot, inputs)

    def read(self, token_ids: Sequence[int], after: int = 0) -> ForwardOutput:
        """Read tokens after the first ``after`` tokens of what was read before.

        Row i of the output [1, L, ...] is what the model says after token i.
        """
        excess = self._session.cached_length(self._slot) - self._prompt_length - after
        if excess:
            self._session.roll_back(self._slot, excess)
        return self._session.forward([self._slot], [token_ids])


@contextmanager
def opened(session: DecodeSession, inputs: ModelInputs, slot: int = 0) -> Iterator[OpenPrompt]:
    """Read after this prompt while the block runs."""
    prompt = OpenPrompt(session, slot, inputs)
    try:
        yield prompt
    finally:
        session.release(slot)


def open_reader(
    model: DecodingModel,
    prompts: Sequence[ModelInputs],
    longest_caption: int,
    num_slots: int = 1,
    taps: Taps = NO_TAPS,
) -> DecodeSession:
    """A session with room for each of the prompts and a caption after it."""
    longest = max(prompt.num_tokens for prompt in prompts)
    return model.open_session(num_slots, longest + longest_caption + _SPARE_TOKENS, taps)


def longest_caption(captions: Sequence[TargetCaption]) -> int:
    """Tokens of the longest."""
    return max(len(caption.token_ids) for caption in captions)

"""Scripted models whose captions are planted, word by word, and which are sure of what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pipeline.calibration.reading import TargetCaption
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import NO_TAPS, ModelInputs, Taps
from pipeline.models.scripted import (
    EOS_TOKEN_ID,
    Script,
    ScriptedSession,
    ScriptedVideoLM,
    scripted_prompt,
)

Say = Callable[[int, Sequence[int]], int]
"""The token that follows ``token_ids`` on the video that a prompt's last id stands for."""


@dataclass(frozen=True)
class PlantedScript(Script):
    """Says what ``say`` says."""

    say: Say | None = None

    def next_token(self, prompt: Sequence[int], token_ids: Sequence[int]) -> int:
        assert self.say is not None
        return self.say(prompt[-1], token_ids)


class SureSession(ScriptedSession):
    """All probability is on one token: the others are impossible."""

    def _logits(self, prompt: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        certain = super()._logits(prompt, token_ids) == 1.0
        return torch.zeros(self.vocab_size).masked_fill(~certain, -torch.inf)


class PlantedVideoLM(ScriptedVideoLM):
    """A scripted model on a planted caption; its tokens are words if it is given any."""

    def __init__(self, say: Say, vocab_size: int = 32, words: Sequence[str] = ()) -> None:
        self._planted = PlantedScript(vocab_size=len(words) or vocab_size, say=say)
        self._words = words
        super().__init__(self._planted)

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> SureSession:
        return SureSession(self._planted, num_slots, max_length, taps)

    def decode_text(self, token_ids: Sequence[int]) -> str:
        return " ".join(self._words[token] for token in token_ids if token != EOS_TOKEN_ID)


def said(script: Script, prompt: ModelInputs, max_tokens: int, begun: Sequence[int] = ()):
    """The caption that a script goes on to from ``begun``, by the script alone: no session."""
    token_ids = list(begun)
    while EOS_TOKEN_ID not in token_ids and len(token_ids) < max_tokens:
        token_ids.append(script.next_token(prompt.token_ids.tolist(), token_ids))
    return tuple(token_ids)


def clip_request(index: int, num_visual_tokens: int = 2) -> CaptionRequest:
    """Clip ``index`` (its prompts end with ``index``); target's and draft's prompts differ."""
    return CaptionRequest(
        f"clip {index}",
        scripted_prompt([4, index], num_visual_tokens),
        scripted_prompt([7, 4, index], num_visual_tokens),
    )


def captions_of(
    script: Script, requests: Sequence[CaptionRequest], max_tokens: int = 100
) -> list[TargetCaption]:
    """What the target's script says of each request."""
    return [
        TargetCaption(request, said(script, request.target, max_tokens)) for request in requests
    ]

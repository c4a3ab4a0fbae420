"""The protocol between the decoding loop and a model: slots of cached rows, fed in ragged batches.

Shapes: B rows in this call, L tokens fed to the longest row, V vocabulary, D hidden size of the
tapped layer, M visual tokens of one row, T prompt length.

The loop owns this protocol and models implement it (models/session.py for transformers models,
models/scripted.py for tests). It knows logits, ids and states; no videos, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """One prompt as a model takes it.

    token_ids [T] int64 with the visual placeholders expanded; position_ids [T] or [3, T] (M-RoPE);
    visual_mask [T] bool marks the M visual tokens; next_position is the position of the first
    generated token (with M-RoPE it is not T); vision holds what the family's vision tower takes.
    ``kept_visual`` [video features] bool tells which of the vision tower's features the prompt
    still has a place for, True M times; None: all (pipeline/decoding/pruning.py).
    ``frames_digest`` tells videos apart (prefix_cache.py); None: read the video anew.
    """

    token_ids: torch.Tensor
    position_ids: torch.Tensor
    visual_mask: torch.Tensor
    next_position: int
    vision: Mapping[str, torch.Tensor]
    kept_visual: torch.Tensor | None = None
    frames_digest: str | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.token_ids.shape[0])

    @property
    def num_visual_tokens(self) -> int:
        """M."""
        return int(self.visual_mask.sum())


class SlotError(RuntimeError):
    """A slot was used against its state: taken, empty, too short, or rolled back too far."""


@dataclass(frozen=True, slots=True)
class Taps:
    """What a session reports beside logits; layers count from 0, None taps nothing.

    states_layer: its output states. attention_layer: how much of its attention goes to the video.
    """

    states_layer: int | None = None
    attention_layer: int | None = None


NO_TAPS = Taps()


@dataclass(frozen=True, slots=True, eq=False)
class PrefillOutput:
    """logits [V] float32 of the token after the prompt.

    visual_states [M, D] of the tapped layer; visual_attention [M] float32, the attention that the
    last prompt token pays to each visual token, mean over heads. Both None when not tapped, or
    when the prompt has no video.
    """

    logits: torch.Tensor
    visual_states: torch.Tensor | None = None
    visual_attention: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ForwardOutput:
    """logits [B, L, V] float32; states [B, L, D] of the tapped layer, None when none is tapped.

    visual_attention [B, L] float32 is the share (0 to 1, mean over heads) of each token's attention
    that goes to the row's visual tokens, 0 for a prompt without a video; None when not tapped.
    Entries at and beyond a row's own number of tokens are padding and must not be read.
    """

    logits: torch.Tensor
    states: torch.Tensor | None = None
    visual_attention: torch.Tensor | None = None


class DecodeSession(Protocol):
    """A model with ``num_slots`` independent cached rows.

    Invariant: what a row's logits are depends on that row's prompt and tokens alone, never on the
    other rows, on how its tokens were split over calls, or on tokens that were rolled back.
    """

    @property
    def num_slots(self) -> int:
        """Rows that can be cached at once."""

    @property
    def max_length(self) -> int:
        """Tokens that one slot can hold: prompt, output, and a block under verification."""

    @property
    def vocab_size(self) -> int:
        """V: logits are cropped to the tokenizer's vocabulary, alike for target and draft."""

    def prefill(self, slot: int, inputs: ModelInputs) -> PrefillOutput:
        """Cache a prompt in a free slot. Raises SlotError if the slot is taken or too short."""

    def start_prefill(self, slot: int, inputs: ModelInputs) -> None:
        """Take a free slot and encode the prompt's video; nothing is read yet.

        Cached is what of the prompt was known (``cached_length``), mostly nothing. Raises SlotError
        as ``prefill`` does. ``release`` frees the slot at any moment.
        """

    def continue_prefill(self, slot: int, max_tokens: int) -> PrefillOutput | None:
        """Cache at most ``max_tokens`` (at least one) more prompt tokens of a started slot.

        None while prompt tokens remain; with the last one the same output as ``prefill``.
        Raises SlotError if no prefill is under way. ``forward`` on such a slot is a SlotError.
        """

    def forward(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> ForwardOutput:
        """Append ``token_ids[i]`` (at least one) to row ``slots[i]`` and score each position.

        Raises SlotError if a row is empty, is named twice, or would outgrow its slot.
        """

    def cached_length(self, slot: int) -> int:
        """Tokens in the row's cache: prompt plus appended minus rolled back."""

    def roll_back(self, slot: int, num_tokens: int) -> None:
        """Drop the row's newest ``num_tokens`` appended tokens (never prompt tokens)."""

    def release(self, slot: int) -> None:
        """Free the slot for another prompt."""

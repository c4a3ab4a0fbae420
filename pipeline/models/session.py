"""DecodeSession of transformers Video-LLMs: the language model alone, on our own cache.

Shapes: B rows in this call, L tokens fed to the longest row, T prompt length, V vocabulary, D
hidden size, M visual tokens.

The families differ in their vision tower and in the prompt's positions; both are settled before the
language model runs. So this session serves every family whose language model takes
``inputs_embeds``, ``position_ids`` and ``past_key_values``. It never calls the top-level forward:
that recomputes 3-D positions and reads ``rope_deltas``, a mutable attribute of the *model*, wrong
as soon as two rows alternate (docs/method.md, "Model facts that bite").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.decoding.cache import SlotCache
from pipeline.decoding.session import (
    NO_TAPS,
    ForwardOutput,
    ModelInputs,
    PrefillOutput,
    SlotError,
    Taps,
)


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The text half of a Video-LLM and what the session must know of it.

    ``encode_video`` maps ModelInputs.vision to features [M, D] in the order of the placeholders.
    """

    decoder: nn.Module
    lm_head: nn.Module
    encode_video: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
    vocab_size: int
    num_heads: int
    head_size: int

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.decoder.layers  # type: ignore[return-value]

    @property
    def embedding(self) -> nn.Embedding:
        """Token embeddings."""
        return self.decoder.embed_tokens  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Occupant:
    """Of a taken slot: length of the prompt, and position minus cache index of what follows it."""

    prompt_length: int
    position_offset: int


class TransformersSession:
    """Implements DecodeSession; see there for the contract."""

    def __init__(
        self, model: LanguageModel, num_slots: int, max_length: int, taps: Taps = NO_TAPS
    ) -> None:
        num_layers = len(model.layers)
        for tapped_layer in (taps.states_layer, taps.attention_layer):
            if tapped_layer is not None and not 0 <= tapped_layer < num_layers:
                raise ValueError(f"tapped layer {tapped_layer}: the model has 0..{num_layers - 1}")
        weight = model.embedding.weight
        self._model = model
        self._device = weight.device
        self._max_length = max_length
        self._taps = taps
        self._starting: dict[int, ModelInputs] = {}
        self._occupants: list[_Occupant | None] = [None] * num_slots
        self._cache = SlotCache(
            num_layers=num_layers,
            num_slots=num_slots,
            num_heads=model.num_heads,
            max_length=max_length,
            head_size=model.head_size,
            dtype=weight.dtype,
            device=weight.device,
        )

    @property
    def num_slots(self) -> int:
        """Rows that can be cached at once."""
        return len(self._occupants)

    @property
    def max_length(self) -> int:
        """Tokens that one slot can hold."""
        return self._max_length

    @property
    def vocab_size(self) -> int:
        """V, of the tokenizer."""
        return self._model.vocab_size

    @torch.inference_mode()
    def prefill(self, slot: int, inputs: ModelInputs) -> PrefillOutput:
        """Encode the video and cache the prompt; see DecodeSession."""
        if self._occupants[slot] is not None:
            raise SlotError(f"slot {slot} is taken")
        if inputs.num_tokens > self._max_length:
            raise SlotError(
                f"a prompt of {inputs.num_tokens} tokens does not fit a slot of {self._max_length}"
            )
        visual_mask = inputs.visual_mask.to(self._device)
        embeddings = self._embed(inputs, visual_mask)
        hidden, states = self._run(
            [slot],
            [inputs.num_tokens],
            embeddings,
            inputs.position_ids.to(self._device)[..., None, :],
        )
        self._occupants[slot] = _Occupant(
            prompt_length=inputs.num_tokens,
            position_offset=inputs.next_position - inputs.num_tokens,
        )
        visual_states = None
        if states is not None and bool(inputs.visual_mask.any()):
            visual_states = states[0, visual_mask]
        return PrefillOutput(self._logits(hidden[0, -1]), visual_states)

    @torch.inference_mode()
    def forward(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> ForwardOutput:
        """Append tokens to rows and score each position; see DecodeSession."""
        num_new = [len(tokens) for tokens in token_ids]
        starts = self._check_forward(slots, num_new)
        widest = max(num_new)
        padded = [[*tokens, *[tokens[-1]] * (widest - len(tokens))] for tokens in token_ids]
        ids = torch.tensor(padded, device=self._device)
        positions = torch.arange(widest, device=self._device)
        positions = positions + torch.tensor(starts, device=self._device)[:, None]
        hidden, states = self._run(slots, num_new, self._model.embedding(ids), positions)
        return ForwardOutput(self._logits(hidden), states)

    def start_prefill(self, slot: int, inputs: ModelInputs) -> None:
        """Take the slot; see DecodeSession."""
        self._starting[slot] = inputs

    def continue_prefill(self, slot: int, max_tokens: int) -> PrefillOutput | None:
        """Cache more of the prompt; see DecodeSession."""
        del max_tokens
        return self.prefill(slot, self._starting.pop(slot))

    def cached_length(self, slot: int) -> int:
        """Tokens in the row's cache."""
        return self._cache.length(slot)

    def roll_back(self, slot: int, num_tokens: int) -> None:
        """Drop the row's newest appended tokens; nothing is moved."""
        occupant = self._occupant(slot)
        length = self._cache.length(slot) - num_tokens
        if num_tokens < 0 or length < occupant.prompt_length:
            raise SlotError(
                f"can't roll back {num_tokens} tokens in slot {slot}: "
                f"{self._cache.length(slot) - occupant.prompt_length} were appended"
            )
        self._cache.truncate(slot, length)

    def release(self, slot: int) -> None:
        """Free the slot."""
        self._occupant(slot)
        self._occupants[slot] = None
        self._cache.truncate(slot, 0)

    def _occupant(self, slot: int) -> _Occupant:
        occupant = self._occupants[slot]
        if occupant is None:
            raise SlotError(f"slot {slot} is empty")
        return occupant

    def _check_forward(self, slots: Sequence[int], num_new: Sequence[int]) -> list[int]:
        """The position of each row's first new token; raises SlotError on misuse."""
        if len(set(slots)) != len(slots):
            raise SlotError(f"slots named twice: {list(slots)}")
        starts = []
        for slot, count in zip(slots, num_new, strict=True):
            length = self._cache.length(slot)
            starts.append(length + self._occupant(slot).position_offset)
            if count < 1:
                raise SlotError(f"no token for slot {slot}")
            if length + count > self._max_length:
                raise SlotError(
                    f"slot {slot} holds {length} of {self._max_length} tokens: no room for {count}"
                )
        return starts

    def _embed(self, inputs: ModelInputs, visual_mask: torch.Tensor) -> torch.Tensor:
        """Prompt embeddings [1, T, D] with the video's features in place of its placeholders."""
        embeddings = self._model.embedding(inputs.token_ids.to(self._device)).clone()
        if inputs.vision:
            features = self._model.encode_video(inputs.vision)
            if inputs.kept_visual is not None:
                features = features[inputs.kept_visual.to(features.device)]
            if len(features) != inputs.num_visual_tokens:
                raise ValueError(
                    f"{len(features)} video features for {inputs.num_visual_tokens} placeholders"
                )
            embeddings[visual_mask] = features.to(embeddings)
        return embeddings[None]

    def _run(
        self,
        slots: Sequence[int],
        num_new: Sequence[int],
        embeddings: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states [B, L, D] before the head, and the tapped layer's output [B, L, D]."""
        mask = self._cache.begin(slots, num_new)
        with self._tap() as tapped:
            output = self._model.decoder(
                inputs_embeds=embeddings,
                position_ids=positions,
                # A prepared mapping: the model builds no mask of its own, so None means none.
                attention_mask={"full_attention": mask},
                past_key_values=self._cache,
                use_cache=True,
            )
        self._cache.commit()
        return output.last_hidden_state, tapped[0] if tapped else None

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 scores, cropped to the tokenizer's vocabulary."""
        logits: torch.Tensor = self._model.lm_head(hidden)[..., : self._model.vocab_size]
        return logits.float()

    @contextmanager
    def _tap(self) -> Iterator[list[torch.Tensor]]:
        """Collect the output of one layer while the block runs; the model keeps no trace of it."""
        tapped: list[torch.Tensor] = []
        if self._taps.states_layer is None:
            yield tapped
            return

        def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            tapped.append(output)

        handle = self._model.layers[self._taps.states_layer].register_forward_hook(keep)
        try:
            yield tapped
        finally:
            handle.remove()

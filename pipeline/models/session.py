"""DecodeSession of transformers Video-LLMs: the language model alone, on our own cache.

Shapes: B rows in this call, L tokens fed to the longest row, T prompt length, V vocabulary, E
hidden size, M visual tokens, N cached tokens that the longest row reads.

The families differ in their vision tower and in the prompt's positions; both are settled before the
language model runs, which is our own stack on their weights (decoder_stack.py). The model's
top-level forward is never called: it recomputes 3-D positions and reads ``rope_deltas``, a mutable
attribute of the *model*, wrong as soon as two rows alternate (docs/method.md, "Model facts that
bite").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.decoding.cache import SlotCache
from pipeline.decoding.prefix_cache import Prefix, PrefixCache, prefix_key, prefix_length
from pipeline.decoding.session import (
    NO_TAPS,
    ForwardOutput,
    ModelInputs,
    PrefillOutput,
    SlotError,
    Taps,
)
from pipeline.models.decoder_stack import DecoderStack, Rope


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The text half of a Video-LLM and what encodes its video.

    ``encode_video`` maps ModelInputs.vision to features [video features, E] in the order of the
    placeholders.
    """

    stack: DecoderStack
    encode_video: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Occupant:
    """Of a taken slot: length of the prompt, and position minus cache index of what follows it."""

    prompt_length: int
    position_offset: int


@dataclass(frozen=True, slots=True, eq=False)
class _Prefill:
    """A prompt that is being cached: embeddings [1, T - known, E], their rope, states of the video.

    ``visual_mask`` [T] is on the session's device; the first ``num_known`` tokens were cached from
    the start. ``keep_as`` is what the first ``num_prefix`` tokens are to be kept by, None if they
    are known or not wanted.
    """

    embeddings: torch.Tensor
    rope: Rope
    visual_mask: torch.Tensor
    has_video: bool
    num_known: int = 0
    num_prefix: int = 0
    keep_as: str | None = None
    visual_states: list[torch.Tensor] = field(default_factory=list)


class TransformersSession:
    """Implements DecodeSession; see there for the contract."""

    def __init__(
        self,
        model: LanguageModel,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> None:
        stack = model.stack
        for tapped_layer in (taps.states_layer, taps.attention_layer):
            if tapped_layer is not None and not 0 <= tapped_layer < stack.num_layers:
                raise ValueError(
                    f"tapped layer {tapped_layer}: the model has 0..{stack.num_layers - 1}"
                )
        self._encode_video = model.encode_video
        self._stack = stack
        self._device = stack.device
        self._max_length = max_length
        self._taps = taps
        self._prefixes = prefixes
        self._occupants: list[_Occupant | None] = [None] * num_slots
        self._prefills: dict[int, _Prefill] = {}
        with torch.inference_mode():
            self._cache = SlotCache(
                num_layers=stack.num_layers,
                num_slots=num_slots,
                num_heads=stack.num_kv_heads,
                max_length=max_length,
                head_size=stack.head_size,
                dtype=stack.dtype,
                device=stack.device,
            )
            # 1 where a slot's cached token is visual; only an attention tap reads it.
            self._visual = torch.zeros(num_slots, max_length + 1, device=stack.device)

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
        return self._stack.vocab_size

    def prefill(self, slot: int, inputs: ModelInputs) -> PrefillOutput:
        """Encode the video and cache the prompt; see DecodeSession."""
        self.start_prefill(slot, inputs)
        output = None
        try:
            output = self.continue_prefill(slot, inputs.num_tokens)
        finally:
            if output is None:
                self.release(slot)
        assert output is not None  # all tokens were asked for
        return output

    @torch.inference_mode()
    def start_prefill(self, slot: int, inputs: ModelInputs) -> None:
        """Take the slot and encode the video; see DecodeSession."""
        if self._occupants[slot] is not None:
            raise SlotError(f"slot {slot} is taken")
        num_tokens = inputs.num_tokens
        if num_tokens > self._max_length:
            raise SlotError(
                f"a prompt of {num_tokens} tokens does not fit a slot of {self._max_length}"
            )
        visual_mask = inputs.visual_mask.to(self._device)
        key = None if self._prefixes is None else prefix_key(inputs)
        known = None if self._prefixes is None or key is None else self._prefixes.get(key)
        if known is None:
            embeddings = self._embed(inputs, visual_mask)
        else:
            embeddings = self._embed_text(inputs.token_ids[known.num_tokens :])
        prefill = _Prefill(
            embeddings=embeddings,
            rope=self._stack.rope(inputs.position_ids.to(self._device)),
            visual_mask=visual_mask,
            has_video=bool(inputs.visual_mask.any()),
            num_known=0 if known is None else known.num_tokens,
            num_prefix=prefix_length(inputs),
            keep_as=key if known is None else None,
        )
        offset = inputs.next_position - num_tokens
        # Now, so that a step finds the positions of a full slot.
        self._stack.text_rope(offset + self._max_length)
        if self._taps.attention_layer is not None:
            self._visual[slot].zero_()
            self._visual[slot, :num_tokens] = visual_mask
        self._occupants[slot] = _Occupant(num_tokens, offset)
        self._prefills[slot] = prefill
        if known is not None:
            self._cache.write(slot, known.keys_and_values)
            if known.visual_states is not None:
                prefill.visual_states.append(known.visual_states.to(self._device))

    @torch.inference_mode()
    def continue_prefill(self, slot: int, max_tokens: int) -> PrefillOutput | None:
        """Cache more of the prompt; see DecodeSession."""
        prefill = self._prefills.get(slot)
        if prefill is None:
            raise SlotError(f"no prefill is under way in slot {slot}")
        if max_tokens < 1:
            raise SlotError(f"a chunk of {max_tokens} prompt tokens for slot {slot}")
        start = self._cache.length(slot)
        num_tokens = len(prefill.visual_mask)
        stop = min(start + max_tokens, num_tokens)
        output = self._stack.run(
            prefill.embeddings[:, start - prefill.num_known : stop - prefill.num_known],
            prefill.rope.between(start, stop),
            self._cache,
            self._cache.begin([slot], [stop - start]),
            self._taps,
            num_attending=int(stop == num_tokens and prefill.has_video),
        )
        self._cache.commit()
        if output.states is not None:
            prefill.visual_states.append(output.states[0, prefill.visual_mask[start:stop]])
        if stop < num_tokens:
            return None
        del self._prefills[slot]
        visual_states = visual_attention = None
        if prefill.visual_states and prefill.has_video:
            visual_states = torch.cat(prefill.visual_states)
        if self._prefixes is not None and prefill.keep_as is not None:
            states = None if visual_states is None else visual_states.cpu()
            kept = self._cache.read(slot, prefill.num_prefix)
            self._prefixes.put(prefill.keep_as, Prefix(kept, states))
        if output.attention is not None:
            visual_attention = output.attention[0, -1, prefill.visual_mask]
        logits = self._stack.logits(output.hidden[0, -1])
        return PrefillOutput(logits, visual_states, visual_attention)

    @torch.inference_mode()
    def forward(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> ForwardOutput:
        """Append tokens to rows and score each position; see DecodeSession."""
        num_new = [len(tokens) for tokens in token_ids]
        starts = self._check_forward(slots, num_new)
        widest = max(num_new)
        all_positions = self._stack.text_rope(0)
        if len(slots) == 1:
            ids = torch.tensor([list(token_ids[0])], device=self._device)
            rope = all_positions.between(starts[0], starts[0] + widest)
        else:
            # Padding repeats the last token; its position may lie beyond what a row can reach.
            last = len(all_positions.table) - 1
            padded = [[*tokens, *[tokens[-1]] * (widest - len(tokens))] for tokens in token_ids]
            positions = [[min(at, last) for at in range(s, s + widest)] for s in starts]
            ids, at_positions = torch.tensor([padded, positions], device=self._device).unbind(0)
            rope = all_positions.at(at_positions)
        output = self._stack.run(
            self._stack.embedding(ids),
            rope,
            self._cache,
            self._cache.begin(slots, num_new),
            self._taps,
            num_attending=widest,
        )
        self._cache.commit()
        shares = None
        if output.attention is not None:
            visual = self._visual[list(slots), : output.attention.shape[-1]]
            shares = (output.attention @ visual[..., None])[..., 0]
        return ForwardOutput(self._stack.logits(output.hidden), output.states, shares)

    def cached_length(self, slot: int) -> int:
        """Tokens in the row's cache."""
        return self._cache.length(slot)

    def roll_back(self, slot: int, num_tokens: int) -> None:
        """Drop the row's newest appended tokens; nothing is moved."""
        occupant = self._occupant(slot)
        length = self._cache.length(slot) - num_tokens
        if num_tokens < 0 or length < occupant.prompt_length:
            appended = max(0, self._cache.length(slot) - occupant.prompt_length)
            raise SlotError(
                f"can't roll back {num_tokens} tokens in slot {slot}: {appended} were appended"
            )
        self._cache.truncate(slot, length)

    def release(self, slot: int) -> None:
        """Free the slot."""
        self._occupant(slot)
        self._occupants[slot] = None
        self._prefills.pop(slot, None)
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
            if slot in self._prefills:
                raise SlotError(f"the prompt of slot {slot} is not cached yet")
            if count < 1:
                raise SlotError(f"no token for slot {slot}")
            if length + count > self._max_length:
                raise SlotError(
                    f"slot {slot} holds {length} of {self._max_length} tokens: no room for {count}"
                )
        return starts

    def _embed(self, inputs: ModelInputs, visual_mask: torch.Tensor) -> torch.Tensor:
        """Prompt embeddings [1, T, E] with the video's features in place of its placeholders."""
        embeddings = self._embed_text(inputs.token_ids)
        if inputs.vision:
            features = self._encode_video(inputs.vision)
            if inputs.kept_visual is not None:
                features = features[inputs.kept_visual.to(features.device)]
            if len(features) != inputs.num_visual_tokens:
                raise ValueError(
                    f"{len(features)} video features for {inputs.num_visual_tokens} placeholders"
                )
            embeddings[0, visual_mask] = features.to(embeddings)
        return embeddings

    def _embed_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [1, T, E] of ids alone."""
        embeddings: torch.Tensor = self._stack.embedding(token_ids.to(self._device))
        return embeddings.clone()[None]

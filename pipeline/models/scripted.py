"""A Video-LLM made of a hash function: deterministic, instant, and strict about misuse.

The next token is a pure function of the prompt and the tokens so far, so every decoding method can
be checked without a network: whatever the path, the text is known. A draft is the same script that
follows the target with a given ``agreement``: 1 always, 0 never, between them at hashed places.

It keeps what a real cache keeps (the fed tokens, in order) and raises SlotError where a real one
would silently answer wrongly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from pipeline.config import PromptConfig
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.session import (
    NO_TAPS,
    ForwardOutput,
    ModelInputs,
    PrefillOutput,
    SlotError,
    Taps,
)
from pipeline.models.base import Turn, check_turns, turns_of
from pipeline.records import DecodedClip

EOS_TOKEN_ID = 0
_VISUAL_TOKEN_ID = 1
_FIRST_TEXT_ID = 2
_VISUAL_TOKENS_PER_FRAME = 2
_HIDDEN_SIZE = 4


def _hash(*parts: object) -> int:
    """64 bits that depend on the parts' text alone."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@dataclass(frozen=True, slots=True)
class Script:
    """What a scripted model says.

    Captions are ``min_length .. max_length`` tokens long with their end, by prompt; ids are below
    ``vocab_size``, which is at least 4. ``agreement`` is the share of places where the model says
    what the script says.
    """

    seed: int = 0
    vocab_size: int = 32
    min_length: int = 4
    max_length: int = 24
    agreement: float = 1.0

    def next_token(self, prompt: Sequence[int], token_ids: Sequence[int]) -> int:
        """The token after ``token_ids``; differs from the script's where the model disagrees."""
        scripted = self._scripted(prompt, token_ids)
        place = _hash("agree", self.seed, *prompt, "|", *token_ids)
        if place < self.agreement * 2**64:
            return scripted
        return (scripted + 1 + place % (self.vocab_size - 1)) % self.vocab_size

    def _scripted(self, prompt: Sequence[int], token_ids: Sequence[int]) -> int:
        lengths = self.max_length - self.min_length + 1
        length = self.min_length + _hash("length", self.seed, *prompt) % lengths
        if len(token_ids) >= length - 1:
            return EOS_TOKEN_ID
        span = self.vocab_size - _FIRST_TEXT_ID
        return _FIRST_TEXT_ID + _hash("token", self.seed, *prompt, "|", *token_ids) % span


@dataclass(slots=True)
class _Slot:
    prompt: tuple[int, ...]
    inputs: ModelInputs
    num_prefilled: int = 0
    token_ids: list[int] = field(default_factory=list)


class ScriptedSession:
    """Implements DecodeSession on a script; see there for the contract.

    States of a token are its id in each of 4 dimensions, its attention to the video is id / V, and
    visual token m gets attention m: values that tests can recognise.
    """

    def __init__(
        self, script: Script, num_slots: int, max_length: int, taps: Taps = NO_TAPS
    ) -> None:
        self._script = script
        self._max_length = max_length
        self._taps = taps
        self._slots: list[_Slot | None] = [None] * num_slots

    @property
    def num_slots(self) -> int:
        """Rows that can be cached at once."""
        return len(self._slots)

    @property
    def max_length(self) -> int:
        """Tokens that one slot can hold."""
        return self._max_length

    @property
    def vocab_size(self) -> int:
        """V, of the script."""
        return self._script.vocab_size

    def prefill(self, slot: int, inputs: ModelInputs) -> PrefillOutput:
        """Cache a prompt; see DecodeSession."""
        self.start_prefill(slot, inputs)
        output = self.continue_prefill(slot, inputs.num_tokens)
        assert output is not None
        return output

    def start_prefill(self, slot: int, inputs: ModelInputs) -> None:
        """Take the slot; see DecodeSession."""
        if self._slots[slot] is not None:
            raise SlotError(f"slot {slot} is taken")
        if inputs.num_tokens > self._max_length:
            raise SlotError(f"{inputs.num_tokens} tokens do not fit {self._max_length}")
        self._slots[slot] = _Slot(tuple(inputs.token_ids.tolist()), inputs)

    def continue_prefill(self, slot: int, max_tokens: int) -> PrefillOutput | None:
        """Cache more of the prompt; see DecodeSession."""
        row = self._slots[slot]
        if row is None or row.num_prefilled == len(row.prompt):
            raise SlotError(f"no prefill is under way in slot {slot}")
        if max_tokens < 1:
            raise SlotError(f"a prefill can't go on by {max_tokens} tokens")
        row.num_prefilled = min(len(row.prompt), row.num_prefilled + max_tokens)
        if row.num_prefilled < len(row.prompt):
            return None
        visual = row.inputs.token_ids[row.inputs.visual_mask]
        return PrefillOutput(
            self._logits(row.prompt, []),
            self._states(visual) if self._taps.states_layer is not None and len(visual) else None,
            torch.arange(len(visual), dtype=torch.float32)
            if self._taps.attention_layer is not None and len(visual)
            else None,
        )

    def forward(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> ForwardOutput:
        """Append tokens to rows and score each position; see DecodeSession."""
        if len(set(slots)) != len(slots):
            raise SlotError(f"slots named twice: {list(slots)}")
        rows = [self._occupied(slot) for slot in slots]
        for slot, row, tokens in zip(slots, rows, token_ids, strict=True):
            if row.num_prefilled < len(row.prompt):
                raise SlotError(f"the prompt in slot {slot} is not cached yet")
            if not tokens:
                raise SlotError(f"no token for slot {slot}")
            if not all(0 <= token < self.vocab_size for token in tokens):
                raise SlotError(f"ids outside the vocabulary of {self.vocab_size}: {tokens}")
            if EOS_TOKEN_ID in [*row.token_ids, *tokens[:-1]]:
                raise SlotError(f"slot {slot} is fed after its end of sequence")
            if self.cached_length(slot) + len(tokens) > self._max_length:
                raise SlotError(f"slot {slot} has no room for {len(tokens)} tokens")
        widest = max(map(len, token_ids))
        logits = torch.full((len(rows), widest, self.vocab_size), torch.nan)
        states = torch.full((len(rows), widest, _HIDDEN_SIZE), torch.nan)
        attention = torch.full((len(rows), widest), torch.nan)
        for i, (row, tokens) in enumerate(zip(rows, token_ids)):
            states[i, : len(tokens)] = self._states(torch.tensor(tokens))
            attention[i, : len(tokens)] = torch.tensor(tokens) / self.vocab_size
            for j, token in enumerate(tokens):
                row.token_ids.append(token)
                logits[i, j] = self._logits(row.prompt, row.token_ids)
        return ForwardOutput(
            logits,
            states if self._taps.states_layer is not None else None,
            attention if self._taps.attention_layer is not None else None,
        )

    def cached_length(self, slot: int) -> int:
        """Tokens in the row's cache; 0 for a free slot."""
        row = self._slots[slot]
        return 0 if row is None else row.num_prefilled + len(row.token_ids)

    def roll_back(self, slot: int, num_tokens: int) -> None:
        """Drop the row's newest appended tokens."""
        row = self._occupied(slot)
        if not 0 <= num_tokens <= len(row.token_ids):
            raise SlotError(f"can't roll back {num_tokens} of {len(row.token_ids)} tokens")
        del row.token_ids[len(row.token_ids) - num_tokens :]

    def release(self, slot: int) -> None:
        """Free the slot."""
        self._occupied(slot)
        self._slots[slot] = None

    def _occupied(self, slot: int) -> _Slot:
        row = self._slots[slot]
        if row is None:
            raise SlotError(f"slot {slot} is empty")
        return row

    def _logits(self, prompt: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        logits = torch.zeros(self.vocab_size)
        logits[self._script.next_token(prompt, token_ids)] = 1.0
        return logits

    def _states(self, token_ids: torch.Tensor) -> torch.Tensor:
        return token_ids[:, None].float().expand(-1, _HIDDEN_SIZE)


class ScriptedVideoLM:
    """Implements VideoLM on a script: the caption depends on the frames and on the question."""

    def __init__(self, script: Script, model_id: str = "scripted") -> None:
        self._script = script
        self._model_id = model_id

    @property
    def model_id(self) -> str:
        """The name given."""
        return self._model_id

    @property
    def revision(self) -> str:
        """The script itself, in words."""
        return repr(self._script)

    @property
    def vocab_size(self) -> int:
        """V, of the script."""
        return self._script.vocab_size

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The one end token."""
        return frozenset([EOS_TOKEN_ID])

    def prepare(self, clip: DecodedClip, prompt: PromptConfig) -> ModelInputs:
        """The clip and the question."""
        return self.converse(clip, turns_of(prompt))

    def converse(self, clip: DecodedClip | None, turns: Sequence[Turn]) -> ModelInputs:
        """Two visual tokens a frame, then 8 ids that stand for the frames and all turns."""
        check_turns(clip, turns)
        parts = [(turn.role, turn.text, turn.has_video) for turn in turns]
        question = _hash(clip.frames_digest if clip else None, *parts)
        span = self._script.vocab_size - _FIRST_TEXT_ID
        text = [_FIRST_TEXT_ID + (question >> 8 * i) % span for i in range(8)]
        return scripted_prompt(text, _VISUAL_TOKENS_PER_FRAME * len(clip.frames) if clip else 0)

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> ScriptedSession:
        """Slots on the script, which reads every prompt at once and keeps no prefixes."""
        del prefixes
        return ScriptedSession(self._script, num_slots, max_length, taps)

    @property
    def num_layers(self) -> int:
        """As many as anyone wants to tap."""
        return 64

    @property
    def kv_bytes_per_token(self) -> int:
        """A script caches ids only; one byte makes budgets easy to reckon."""
        return 1

    @property
    def device(self) -> torch.device:
        """A script lies nowhere; its logits are on the CPU."""
        return torch.device("cpu")

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The end and the visual placeholder."""
        return frozenset([EOS_TOKEN_ID, _VISUAL_TOKEN_ID])

    def token_texts(self) -> Sequence[str]:
        """``w<letter...>``: words without digits, which safe mode would guard."""
        return [
            "w" + "".join(chr(ord("a") + int(digit)) for digit in str(token))
            for token in range(self._script.vocab_size)
        ]

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """``w<id>`` for each token but the end."""
        return " ".join(f"w{token}" for token in token_ids if token != EOS_TOKEN_ID)


def scripted_prompt(text: Sequence[int], num_visual_tokens: int = 0) -> ModelInputs:
    """ModelInputs of visual placeholders and then the given ids."""
    token_ids = torch.tensor([_VISUAL_TOKEN_ID] * num_visual_tokens + list(text))
    return ModelInputs(
        token_ids=token_ids,
        position_ids=torch.arange(len(token_ids)),
        visual_mask=torch.arange(len(token_ids)) < num_visual_tokens,
        next_position=len(token_ids),
        vision={},
    )

"""From prompts to captions: picks the decoding method, and compares a share of clips with plain.

Several requests decode as one batch; each caption equals the one that its clip would get alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

from pipeline.config import GenerationConfig, SpeculationConfig, SpeculationMethod
from pipeline.decoding.acceptance import exact_rule
from pipeline.decoding.autoregressive import decode_autoregressively
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow, StopRule
from pipeline.decoding.session import NO_TAPS, DecodeSession, ModelInputs, Taps
from pipeline.decoding.speculative import SpeculativeDecoder
from pipeline.records import Caption, PlainComparison

_LENGTH_STEP = 256
_GROWTH = 1.25
"""Of a slot's length at least, so that clips that get longer bit by bit seldom need a session."""


class DecodingModel(Protocol):
    """What the engine needs of a model (pipeline.models.base.VideoLM has it)."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a caption."""

    def open_session(self, num_slots: int, max_length: int, taps: Taps = NO_TAPS) -> DecodeSession:
        """Rows to decode in."""

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """Text of a caption."""


class _KeptSession:
    """One model's session: kept from batch to batch, and replaced once a batch does not fit.

    A session is mostly its cache, which can take most of a device's memory: the old one is let go
    before the larger one is opened.
    """

    def __init__(self, model: DecodingModel, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._session: DecodeSession | None = None

    def fit(self, prompts: Sequence[ModelInputs]) -> DecodeSession:
        """A session with a slot for each prompt and its caption; raises the model's errors."""
        num_slots = len(prompts)
        length = max((p.num_tokens for p in prompts), default=1) + self._max_tokens
        if self._session is not None:
            slots_before, length_before = self._session.num_slots, self._session.max_length
            if num_slots <= slots_before and length <= length_before:
                return self._session
            num_slots = max(num_slots, slots_before)
            grown = math.ceil(_GROWTH * length_before) if length > length_before else length_before
            length = max(length, grown)
            self._session = None
        max_length = math.ceil(length / _LENGTH_STEP) * _LENGTH_STEP
        self._session = self._model.open_session(num_slots, max_length)
        return self._session


class CaptionEngine:
    """Captions batches of requests with one target and perhaps one draft.

    It keeps one session per model, large enough for the largest batch so far, so that steady work
    allocates nothing. Not thread-safe. Raises ValueError if speculation is asked without a draft.
    """

    def __init__(
        self,
        target: DecodingModel,
        draft: DecodingModel | None,
        generation: GenerationConfig,
        speculation: SpeculationConfig,
    ) -> None:
        if speculation.method is not SpeculationMethod.NONE and draft is None:
            raise ValueError(
                f"speculation.method {speculation.method} needs models.draft; name one, or set "
                f"the method to {SpeculationMethod.NONE}"
            )
        if speculation.method is SpeculationMethod.NONE:
            draft = None
        self._decode_text = target.decode_text
        self._target = _KeptSession(target, generation.max_tokens)
        self._draft = _KeptSession(draft, generation.max_tokens) if draft else None
        self._stop = StopRule(target.eos_token_ids, generation.max_tokens)
        self._speculation = speculation

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Caption]:
        """Caption the requests as one batch, in order.

        Clips chosen for comparison decode both ways in batches of their own, so that both ways
        share the machine with the same rows; which way goes first is a coin toss by clip_id.
        Raises SlotError or the model's errors; the engine can be used again afterwards.
        """
        captions: dict[int, Caption] = {}
        compared = [i for i, request in enumerate(requests) if self._is_compared(request)]
        others = [i for i in range(len(requests)) if i not in compared]
        if others:
            rows = self._decode([requests[i] for i in others])
            captions.update((i, self._caption(row, None)) for i, row in zip(others, rows))
        if compared:
            batch = [requests[i] for i in compared]
            if _hash64(batch[0].clip_id) % 2:
                plain_rows = self._decode_plainly(batch)
                rows = self._decode(batch)
            else:
                rows = self._decode(batch)
                plain_rows = self._decode_plainly(batch)
            for i, row, plain in zip(compared, rows, plain_rows):
                captions[i] = self._caption(row, plain)
        return [captions[i] for i in range(len(requests))]

    def _is_compared(self, request: CaptionRequest) -> bool:
        share = self._speculation.plain_share
        return self._draft is not None and _hash64(request.clip_id) < share * 2**64

    def _decode(self, requests: Sequence[CaptionRequest]) -> list[DecodedRow]:
        if self._draft is None:
            return self._decode_plainly(requests)
        decoder = SpeculativeDecoder(
            target=self._target.fit([request.target for request in requests]),
            draft=self._draft.fit([r.draft for r in requests if r.draft is not None]),
            stop=self._stop,
            row_rule=exact_rule,
            num_speculative_tokens=self._speculation.num_speculative_tokens or 4,
        )
        return decoder.decode(requests)

    def _decode_plainly(self, requests: Sequence[CaptionRequest]) -> list[DecodedRow]:
        prompts = [request.target for request in requests]
        return decode_autoregressively(self._target.fit(prompts), prompts, self._stop)

    def _caption(self, row: DecodedRow, plain: DecodedRow | None) -> Caption:
        comparison = None
        if plain is not None:
            comparison = PlainComparison(
                equal=plain.token_ids == row.token_ids,
                prefill_s=plain.stats.prefill_s,
                decode_s=plain.stats.decode_s,
                output_tokens=plain.stats.output_tokens,
            )
        text = self._decode_text(row.token_ids)
        return Caption(text, row.token_ids, row.finish_reason, row.stats, comparison)


def _hash64(clip_id: str) -> int:
    """64 bits that depend on the clip alone, alike in every process."""
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big")

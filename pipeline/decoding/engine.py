"""From prompts to captions: picks the decoding method, and compares a share of clips with plain.

Several requests decode as one batch; each caption equals the one that its clip would get alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from pipeline.config import GenerationConfig, SpeculationConfig, SpeculationMethod
from pipeline.decoding.acceptance import exact_rule
from pipeline.decoding.autoregressive import decode_autoregressively
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow, StopRule
from pipeline.decoding.session import DecodeSession, ModelInputs
from pipeline.decoding.speculative import SpeculativeDecoder
from pipeline.records import Caption, PlainComparison

_LENGTH_STEP = 256


class DecodingModel(Protocol):
    """What the engine needs of a model (pipeline.models.base.VideoLM has it)."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a caption."""

    def open_session(
        self, num_slots: int, max_length: int, tapped_layer: int | None
    ) -> DecodeSession:
        """Rows to decode in."""

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """Text of a caption."""


class CaptionEngine:
    """Captions batches of requests with one target and perhaps one draft.

    It keeps one session per model, as long as the longest request so far, so that steady work
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
        self._draft = draft if speculation.method is not SpeculationMethod.NONE else None
        self._target = target
        self._stop = StopRule(target.eos_token_ids, generation.max_tokens)
        self._speculation = speculation
        self._target_session: DecodeSession | None = None
        self._draft_session: DecodeSession | None = None

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
        drafts = [request.draft for request in requests if request.draft is not None]
        self._draft_session = self._fit(self._draft, self._draft_session, drafts)
        decoder = SpeculativeDecoder(
            target=self._fit_target(requests),
            draft=self._draft_session,
            stop=self._stop,
            row_rule=exact_rule,
            num_speculative_tokens=self._speculation.num_speculative_tokens,
        )
        return decoder.decode(requests)

    def _decode_plainly(self, requests: Sequence[CaptionRequest]) -> list[DecodedRow]:
        session = self._fit_target(requests)
        return decode_autoregressively(session, [r.target for r in requests], self._stop)

    def _fit_target(self, requests: Sequence[CaptionRequest]) -> DecodeSession:
        prompts = [request.target for request in requests]
        self._target_session = self._fit(self._target, self._target_session, prompts)
        return self._target_session

    def _fit(
        self, model: DecodingModel, session: DecodeSession | None, prompts: Sequence[ModelInputs]
    ) -> DecodeSession:
        """The session if it is large enough for the prompts, else a larger one."""
        longest = max((prompt.num_tokens for prompt in prompts), default=1) + self._stop.max_tokens
        num_slots = len(prompts)
        if session is not None:
            if session.num_slots >= num_slots and session.max_length >= longest:
                return session
            longest = max(longest, session.max_length)
            num_slots = max(num_slots, session.num_slots)
        max_length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        return model.open_session(num_slots, max_length, tapped_layer=None)

    def _caption(self, row: DecodedRow, plain: DecodedRow | None) -> Caption:
        comparison = None
        if plain is not None:
            comparison = PlainComparison(
                equal=plain.token_ids == row.token_ids,
                decode_s=plain.stats.decode_s,
                output_tokens=plain.stats.output_tokens,
            )
        text = self._target.decode_text(row.token_ids)
        return Caption(text, row.token_ids, row.finish_reason, row.stats, comparison)


def _hash64(clip_id: str) -> int:
    """64 bits that depend on the clip alone, alike in every process."""
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big")

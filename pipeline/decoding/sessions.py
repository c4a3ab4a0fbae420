"""The engine's sessions: one of the target, perhaps one that drafts, sized by the memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Protocol

import torch

from pipeline.decoding.kv_budget import (
    KvBudget,
    PromptTooLongError,
    SessionShape,
    SlotLengths,
    measured_budget_bytes,
    slot_length,
)
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.pruning import pruned_length
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import NO_TAPS, DecodeSession, Taps


class DecodingModel(Protocol):
    """What the engine needs of a model (pipeline.models.base.VideoLM has it)."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a caption."""

    @property
    def vocab_size(self) -> int:
        """V of the tokenizer."""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""

    @property
    def kv_bytes_per_token(self) -> int:
        """What one cached token takes in a session, bytes."""

    @property
    def device(self) -> torch.device:
        """Where sessions lie."""

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> DecodeSession:
        """Rows to decode in, which know the ``prefixes``."""

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that are no text."""

    def token_texts(self) -> Sequence[str]:
        """Each token as the tokenizer writes it, V of them."""

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """Text of a caption."""


class SessionPair:
    """Sessions kept from batch to batch, and replaced once a batch does not fit.

    A session is mostly its cache, which can take most of a device's memory: the old ones are let go
    before larger ones are opened, so hold no reference to them beyond a batch.
    ``draft_keep_ratio`` is the share of video tokens in the prompts of the drafting session, and
    ``draft_is_target`` tells that it reads the target's prompts. ``prefix_cache_bytes`` is for read
    prompts of videos, most of it for the target's.
    """

    def __init__(
        self,
        target: DecodingModel,
        drafting: DecodingModel | None,
        *,
        taps: Taps,
        max_tokens: int,
        max_num_seqs: int,
        kv_cache_memory_bytes: int | None,
        draft_keep_ratio: float = 1.0,
        draft_is_target: bool = False,
        prefix_cache_bytes: int = 0,
    ) -> None:
        self.prefixes = PrefixCache(prefix_cache_bytes) if prefix_cache_bytes else None
        # A draft is small, and a drafting target sees a part of the video: a third is plenty.
        self._draft_prefixes = PrefixCache(prefix_cache_bytes // 3) if prefix_cache_bytes else None
        self._target_model = target
        self._drafting_model = drafting
        self._taps = taps
        self._max_tokens = max_tokens
        self._max_num_seqs = max_num_seqs
        self._kv_cache_memory_bytes = kv_cache_memory_bytes
        self._draft_keep_ratio = draft_keep_ratio
        self._draft_is_target = draft_is_target
        self._budget: KvBudget | None = None
        self._shape: SessionShape | None = None
        self._target: DecodeSession | None = None
        self._draft: DecodeSession | None = None

    def refusal(self, request: CaptionRequest) -> PromptTooLongError | None:
        """Why the request can't be decoded at all, None if it can."""
        fits = self._measured().num_slots(self._lengths(request), 1)
        return None if fits else self._too_long(request)

    def holds(self, request: CaptionRequest) -> bool:
        """Whether a slot of the open sessions is long enough."""
        return self._shape is not None and self._shape.lengths.covers(self._lengths(request))

    def fit(
        self, requests: Sequence[CaptionRequest], num_rows: int
    ) -> tuple[DecodeSession, DecodeSession | None]:
        """Sessions with slots for the longest request, as many as ``num_rows`` and memory allow.

        In any case they hold the first request. Raises PromptTooLongError if that can't be, and
        the model's errors; then no session is open.
        """
        lengths_of_rows = [self._lengths(request) for request in requests]
        needed = reduce(SlotLengths.joined, lengths_of_rows)
        rows = min(num_rows, self._max_num_seqs)
        budget = self._measured()
        shape = budget.shape(needed, rows, self._shape)
        if shape is None:  # the longest for the target and for the draft may be two requests
            shape = budget.shape(lengths_of_rows[0], rows, self._shape)
        if shape is None:
            raise self._too_long(requests[0])
        if shape != self._shape or self._target is None:
            self._shape = self._target = self._draft = None
            lengths = shape.lengths
            self._target = self._target_model.open_session(
                shape.num_slots, lengths.target, self._taps, self.prefixes
            )
            if self._drafting_model is not None:
                self._draft = self._drafting_model.open_session(
                    shape.num_slots, lengths.draft, prefixes=self._draft_prefixes
                )
            self._shape = shape
        return self._target, self._draft

    def _measured(self) -> KvBudget:
        """The budget; measured once, before the first session is opened."""
        if self._budget is None:
            self._budget = KvBudget(
                self._kv_cache_memory_bytes or measured_budget_bytes(self._target_model.device),
                self._target_model.kv_bytes_per_token,
                self._drafting_model.kv_bytes_per_token if self._drafting_model else 0,
            )
        return self._budget

    def _too_long(self, request: CaptionRequest) -> PromptTooLongError:
        budget = self._measured()
        return PromptTooLongError(
            request.clip_id,
            request.target.num_tokens,
            budget.slot_bytes(self._lengths(request)),
            budget.budget_bytes,
        )

    def _lengths(self, request: CaptionRequest) -> SlotLengths:
        draft = request.target if self._draft_is_target else request.draft
        draft_length = 0
        if self._drafting_model is not None and draft is not None:
            pruned = pruned_length(draft, self._draft_keep_ratio)
            draft_length = slot_length(pruned, self._max_tokens)
        target_length = slot_length(request.target.num_tokens, self._max_tokens)
        return SlotLengths(target_length, draft_length)

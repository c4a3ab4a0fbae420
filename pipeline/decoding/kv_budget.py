"""How many rows fit the memory for keys and values: pure arithmetic, and one measuring function.

A row needs a slot in the target's session and, with a drafting model, one in the draft's. A slot
holds a prompt and its caption; drafted tokens need no room of their own, as a round never drafts
beyond the caption's limit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

LENGTH_STEP = 256
"""Slot lengths are multiples of this many tokens."""
CUDA_SHARE = 0.8
"""Of a GPU's free memory: the rest is for activations of prefill chunks and the vision tower."""
CPU_SHARE = 0.25
"""Of a host's available memory, which other workers and decoded frames share."""
_GROWTH_NUM, _GROWTH_DEN = 5, 4
"""A slot that gets too short grows by a quarter at least, so that clips that get longer bit by bit
seldom need a session."""


class PromptTooLongError(ValueError):
    """A clip whose prompt and caption do not fit the memory for keys and values, even alone."""

    def __init__(self, clip_id: str, prompt_tokens: int, needed_bytes: int, budget_bytes: int):
        self.clip_id = clip_id
        self.prompt_tokens = prompt_tokens
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes
        super().__init__(
            f"a prompt of {prompt_tokens} tokens and its caption need {needed_bytes} bytes of keys "
            f"and values, and there are {budget_bytes}: take fewer or smaller frames "
            "(video.sampling, video.frame_size), shorter clips, or raise "
            "generation.kv_cache_memory_bytes"
        )

    def __reduce__(self) -> tuple[type[PromptTooLongError], tuple[str, int, int, int]]:
        numbers = (self.clip_id, self.prompt_tokens, self.needed_bytes, self.budget_bytes)
        return type(self), numbers


@dataclass(frozen=True, slots=True)
class SlotLengths:
    """Tokens of a row's slot in the target's session and in the draft's (0: there is none)."""

    target: int
    draft: int

    def covers(self, other: SlotLengths) -> bool:
        """Whether a row that needs ``other`` fits."""
        return self.target >= other.target and self.draft >= other.draft

    def joined(self, other: SlotLengths) -> SlotLengths:
        """The least lengths that cover both."""
        return SlotLengths(max(self.target, other.target), max(self.draft, other.draft))


@dataclass(frozen=True, slots=True)
class SessionShape:
    """How many slots the sessions have, and how long they are."""

    num_slots: int
    lengths: SlotLengths


@dataclass(frozen=True, slots=True)
class KvBudget:
    """Bytes for keys and values, and what one cached token takes of them in either session."""

    budget_bytes: int
    target_bytes_per_token: int
    draft_bytes_per_token: int

    def slot_bytes(self, lengths: SlotLengths) -> int:
        """Bytes of one row's slots."""
        return (
            lengths.target * self.target_bytes_per_token
            + lengths.draft * self.draft_bytes_per_token
        )

    def num_slots(self, lengths: SlotLengths, max_num_seqs: int) -> int:
        """Rows that fit, at most ``max_num_seqs``; 0 if not even one does."""
        return min(max_num_seqs, self.budget_bytes // max(1, self.slot_bytes(lengths)))

    def shape(
        self, needed: SlotLengths, num_rows: int, kept: SessionShape | None
    ) -> SessionShape | None:
        """Sessions for ``num_rows`` rows of ``needed`` lengths; None if not even one row fits.

        The ``kept`` shape if it will do. Else a grown one, so that sessions are seldom replaced;
        if that is beyond the budget, just what is needed.
        """
        num_slots = self.num_slots(needed, num_rows)
        if num_slots == 0:
            return None
        if kept is None:
            return SessionShape(num_slots, needed)
        if kept.num_slots >= num_slots and kept.lengths.covers(needed):
            return kept
        grown = SessionShape(
            max(num_slots, kept.num_slots),
            SlotLengths(
                _grown(needed.target, kept.lengths.target),
                _grown(needed.draft, kept.lengths.draft),
            ),
        )
        if self.num_slots(grown.lengths, grown.num_slots) == grown.num_slots:
            return grown
        return SessionShape(num_slots, needed)


def slot_length(prompt_tokens: int, max_tokens: int) -> int:
    """Slot for a prompt and a caption, rounded up."""
    return round_up(prompt_tokens + max_tokens)


def round_up(length: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _grown(needed: int, kept: int) -> int:
    if needed <= kept:
        return kept
    return max(needed, round_up(-(-kept * _GROWTH_NUM // _GROWTH_DEN)))


def measured_budget_bytes(device: torch.device) -> int:
    """Bytes that keys and values may take now, with the models loaded and no session open.

    A GPU: CUDA_SHARE of what is free, blocks that torch holds unused included. A host: CPU_SHARE of
    what its kernel calls available, else of its free pages.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + unused) * CUDA_SHARE)
    return int(_available_host_bytes() * CPU_SHARE)


def _available_host_bytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                name, _, amount = line.partition(":")
                if name == "MemAvailable":
                    return int(amount.split()[0]) * 1024
    except FileNotFoundError:  # no Linux
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

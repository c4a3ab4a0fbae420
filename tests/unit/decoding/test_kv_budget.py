"""Guards admission: how many rows fit, which sessions are opened, and what a refusal says."""

import pickle

import pytest
import torch

from pipeline.decoding.kv_budget import (
    CPU_SHARE,
    KvBudget,
    PromptTooLongError,
    SessionShape,
    SlotLengths,
    measured_budget_bytes,
    slot_length,
)

# A 72B target (327,680 bytes a token) with a 7B draft (57,344), as in docs/method.md.
PAIR = KvBudget(40 << 30, target_bytes_per_token=327_680, draft_bytes_per_token=57_344)
LONG = SlotLengths(target=13_056, draft=2_048)
SHORT = SlotLengths(target=2_560, draft=768)


def test_slots_are_rounded_up():
    assert [slot_length(n, 512) for n in (1, 256, 257, 12_345)] == [768, 768, 1024, 13_056]


def test_a_row_takes_a_slot_in_both_sessions():
    assert PAIR.slot_bytes(LONG) == 13_056 * 327_680 + 2_048 * 57_344 == 4_395_630_592
    assert PAIR.num_slots(LONG, 64) == 9  # 42,949,672,960 bytes
    assert PAIR.num_slots(LONG, 8) == 8
    assert PAIR.num_slots(SHORT, 64) == 48
    assert PAIR.num_slots(SlotLengths(131_072, 0), 8) == 1
    assert PAIR.num_slots(SlotLengths(131_073, 0), 8) == 0


def test_without_a_draft_its_slots_cost_nothing():
    assert KvBudget(1000, 10, 0).num_slots(SlotLengths(50, 0), 8) == 2


class TestShape:
    def test_the_first_sessions_are_what_is_needed(self):
        assert PAIR.shape(LONG, 4, None) == SessionShape(4, LONG)
        assert PAIR.shape(LONG, 64, None) == SessionShape(9, LONG)
        assert PAIR.shape(SlotLengths(131_073, 0), 4, None) is None

    @pytest.mark.parametrize("num_rows", [1, 8])
    def test_larger_sessions_are_kept(self, num_rows):
        kept = SessionShape(8, LONG)
        assert PAIR.shape(SHORT, num_rows, kept) is kept

    def test_longer_ones_grow_by_a_quarter_at_least(self):
        kept = SessionShape(4, SlotLengths(2_560, 768))
        shape = PAIR.shape(SlotLengths(2_816, 768), 2, kept)
        assert shape == SessionShape(4, SlotLengths(3_328, 768))  # 3,200 rounded up

    def test_more_rows_keep_the_lengths(self):
        kept = SessionShape(2, LONG)
        assert PAIR.shape(SHORT, 8, kept) == SessionShape(8, LONG)

    def test_beyond_the_budget_they_are_just_what_is_needed(self):
        """Few long slots make way for many short ones: a long video does not slow the rest."""
        kept = SessionShape(9, LONG)
        assert PAIR.shape(SHORT, 16, kept) == SessionShape(16, SHORT)
        longer = SlotLengths(13_312, 2_048)
        assert PAIR.shape(longer, 9, kept) == SessionShape(9, longer)


def test_a_refusal_carries_its_numbers_and_the_remedy():
    error = PromptTooLongError("clip", 100_000, 33_000_000_000, 1_000_000)
    assert str(error) == (
        "a prompt of 100000 tokens and its caption need 33000000000 bytes of keys and values, and "
        "there are 1000000: take fewer or smaller frames (video.sampling, video.frame_size), "
        "shorter clips, or raise generation.kv_cache_memory_bytes"
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.clip_id, copy.prompt_tokens) == ("clip", 100_000)
    assert (copy.needed_bytes, copy.budget_bytes) == (33_000_000_000, 1_000_000)


def test_a_host_gives_a_share_of_what_is_available():
    with open("/proc/meminfo") as lines:
        (available,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    measured = measured_budget_bytes(torch.device("cpu"))
    assert measured == pytest.approx(available * 1024 * CPU_SHARE, rel=0.5)  # others use it too

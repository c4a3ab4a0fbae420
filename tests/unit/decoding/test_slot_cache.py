"""Guards the slot cache by a plain model of it: each row is the list of what it was given."""

import pytest
import torch

from pipeline.decoding.cache import SlotCache

NUM_LAYERS, NUM_SLOTS, NUM_HEADS, MAX_LENGTH, HEAD_SIZE = 2, 4, 2, 12, 3


class CheckedCache:
    """A SlotCache beside the lists of keys that it should hold; values are the keys negated."""

    def __init__(self):
        self.cache = SlotCache(
            NUM_LAYERS,
            NUM_SLOTS,
            NUM_HEADS,
            MAX_LENGTH,
            HEAD_SIZE,
            torch.float32,
            torch.device("cpu"),
        )
        self.rows = [torch.zeros(NUM_LAYERS, NUM_HEADS, 0, HEAD_SIZE) for _ in range(NUM_SLOTS)]

    def append(self, slots, counts):
        """Append random keys; check what the layers read, and what the mask shows of it."""
        new = torch.randn(NUM_LAYERS, len(slots), NUM_HEADS, max(counts), HEAD_SIZE)
        mask = self.cache.begin(slots, counts)
        for i, (slot, count) in enumerate(zip(slots, counts)):
            self.rows[slot] = torch.cat([self.rows[slot], new[:, i, :, :count]], dim=2)
        for layer in range(NUM_LAYERS):
            fed = new[layer].transpose(1, 2)
            keys, values = self.cache.update(fed, -fed, layer)
            for i, slot in enumerate(slots):
                row = self.rows[slot][layer]
                assert torch.equal(keys[i, :, : row.shape[1]], row)
                assert torch.equal(values[i, :, : row.shape[1]], -row)
        self.cache.commit()
        assert keys.shape[2] == max(self.rows[slot].shape[2] for slot in slots)
        for i, (slot, count) in enumerate(zip(slots, counts)):
            length = self.rows[slot].shape[2]
            assert self.cache.length(slot) == length
            if mask is not None:
                seen = mask[i, 0, :count].sum(-1).tolist()
                assert seen == list(range(length - count + 1, length + 1))
                assert mask[i, 0, :count, length:].sum() == 0
        return mask, keys

    def truncate(self, slot, length):
        self.cache.truncate(slot, length)
        self.rows[slot] = self.rows[slot][:, :, :length]


def test_rows_of_unequal_lengths_grow_and_roll_back_apart():
    cache = CheckedCache()
    for slot, length in enumerate([5, 1, 3, 7]):
        cache.append([slot], [length])
    cache.append([0, 1, 2, 3], [1, 4, 2, 3])
    cache.truncate(1, 2)
    cache.truncate(3, 7)
    cache.append([3, 1], [2, 5])
    cache.append([0, 2], [1, 1])
    cache.truncate(0, 0)
    cache.append([0], [12])
    cache.append([1, 2], [4, 5])


def test_no_mask_where_attention_needs_none():
    cache = CheckedCache()
    assert cache.append([2], [5])[0] is None
    assert cache.append([2], [1])[0] is None
    assert cache.append([2], [2])[0] is not None
    cache.append([1], [8])
    assert cache.append([1, 2], [1, 1])[0] is None
    cache.append([3], [2])
    assert cache.append([1, 3], [1, 1])[0] is not None


@pytest.mark.parametrize("slots", [[2], [1, 2], [0, 1, 2, 3]])
def test_neighbouring_rows_are_read_without_a_copy(slots):
    cache = CheckedCache()
    _, keys = cache.append(slots, [1] * len(slots))
    stored = cache.cache._storage
    assert keys.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()


def test_padding_at_the_end_of_a_slot_overwrites_nothing():
    cache = CheckedCache()
    cache.append([0], [MAX_LENGTH - 1])
    cache.append([0, 1], [1, 4])
    cache.truncate(0, MAX_LENGTH - 1)
    cache.append([0, 1], [1, 2])


def test_a_call_that_failed_leaves_no_trace():
    cache = CheckedCache()
    cache.append([0], [3])
    cache.cache.begin([0], [2])
    assert cache.cache.length(0) == 3
    cache.append([0], [4])


def test_updates_are_framed_by_calls():
    cache = CheckedCache()
    cache.append([0], [3])
    with pytest.raises(RuntimeError, match="outside begin and commit"):
        cache.cache.update(torch.zeros(1), torch.zeros(1), 0)

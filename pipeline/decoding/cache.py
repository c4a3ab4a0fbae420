"""A preallocated key/value cache of independent rows, whose roll back moves nothing.

Shapes: S slots, B rows in this call, H key/value heads, L tokens fed to the longest row, N cached
tokens that the longest row reads, D head size.

transformers' own caches hold one length for the whole batch. Speculation accepts a different number
of tokens in every row, so here each slot has its own length: a row writes at its own offset, and
dropping rejected tokens is a decrement (docs/method.md, "One round, one row").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """Where one call writes and what it reads; lists hold keys and values of each layer in turn.

    One row is written through views ``writes`` [1, L, H, D]; several by ``write_at`` [B * L * H],
    places in a layer's flat storage. Neighbouring rows are read through views ``reads``
    [B, H, N, D], others are gathered by ``read_rows`` [B].
    """

    writes: Sequence[torch.Tensor]
    write_at: torch.Tensor | None
    reads: Sequence[torch.Tensor]
    read_rows: torch.Tensor | None
    read_length: int


class SlotCache:
    """Keys and values of S rows, per layer [S, H, max_length + 1, D] each.

    Each call of the model is framed by ``begin`` and ``commit``, with an ``update`` in every layer
    between; without ``commit`` the call leaves no trace.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        num_heads: int,
        max_length: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # One position more than a row can hold, for padding of ragged batches that falls beyond the
        # end (before the end it is overwritten by what comes next). Zeros, because a masked-out
        # entry still enters the product with weight 0, and 0 x NaN is NaN.
        # One tensor for all layers, keys and values by turns, so that a call makes the views of all
        # layers at once.
        self._storage = torch.zeros(
            (2 * num_layers, num_slots, num_heads, max_length + 1, head_size),
            dtype=dtype,
            device=device,
        )
        self._flat = self._storage.view(2 * num_layers, -1, head_size).unbind(0)
        self._num_heads = num_heads
        self._heads = torch.arange(num_heads, device=device)
        self._lengths = [0] * num_slots
        self._max_length = max_length
        self._device = device
        self._window: _Window | None = None
        self._pending: list[tuple[int, int]] = []

    def length(self, slot: int) -> int:
        """Tokens cached in the row."""
        return self._lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Keep the row's first ``length`` tokens."""
        self._lengths[slot] = length

    def read(self, slot: int, length: int) -> torch.Tensor:
        """A copy in host memory of the row's first tokens, [2 * layers, H, length, D]."""
        return self._storage[:, slot, :, :length].to("cpu", copy=True)

    def write(self, slot: int, keys_and_values: torch.Tensor) -> None:
        """Begin an empty row with tokens that ``read`` gave, of this or a like cache."""
        length = keys_and_values.shape[2]
        self._storage[:, slot, :, :length] = keys_and_values.to(self._device)
        self._lengths[slot] = length

    def begin(self, slots: Sequence[int], num_new: Sequence[int]) -> torch.Tensor | None:
        """Open a call that appends ``num_new[i]`` tokens to row ``slots[i]``.

        Returns the attention mask [B, 1, L, N] bool (True is seen), or None where the attention
        needs none: one token a row and all rows of one length, or a first prefill of one row (which
        the model takes as plainly causal).
        """
        lengths = [self._lengths[slot] for slot in slots]
        widest = max(num_new)
        read_length = max(map(sum, zip(lengths, num_new)))
        self._pending = list(zip(slots, map(sum, zip(lengths, num_new))))
        if len(slots) == 1:
            row = self._storage[:, slots[0] : slots[0] + 1]
            self._window = _Window(
                writes=row[:, :, :, lengths[0] : read_length].transpose(2, 3).unbind(0),
                write_at=None,
                reads=row[:, :, :, :read_length].unbind(0),
                read_rows=None,
                read_length=read_length,
            )
            if widest == 1 or lengths[0] == 0:
                return None
            ones = torch.ones(1, 1, widest, read_length, dtype=torch.bool, device=self._device)
            return ones.tril(lengths[0])
        slot_ids, starts = torch.tensor([list(slots), lengths], device=self._device).unbind(0)
        positions = starts[:, None] + torch.arange(widest, device=self._device)
        heads = slot_ids[:, None] * self._num_heads + self._heads
        write_at = heads[:, None] * (self._max_length + 1)
        write_at = write_at + positions.clamp(max=self._max_length)[..., None]
        neighbours = _as_slice(slots)
        reads: Sequence[torch.Tensor] = ()
        if neighbours is not None:
            reads = self._storage[:, neighbours, :, :read_length].unbind(0)
        self._window = _Window(
            writes=(),
            write_at=write_at.flatten(),
            reads=reads,
            read_rows=slot_ids if neighbours is None else None,
            read_length=read_length,
        )
        if widest == 1 and min(lengths) == max(lengths):
            return None
        return torch.arange(read_length, device=self._device) <= positions[:, None, :, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values [B, L, H, D] of one layer; returns all that the rows read so far.

        The result [B, H, N, D] is a view when the rows are neighbours, so always for one row.
        """
        window = self._window
        if window is None:
            raise RuntimeError("SlotCache.update outside begin and commit")
        at_keys, at_values = 2 * layer, 2 * layer + 1
        if window.write_at is None:
            window.writes[at_keys].copy_(keys)
            window.writes[at_values].copy_(values)
        else:
            width = keys.shape[-1]
            self._flat[at_keys].index_copy_(0, window.write_at, keys.reshape(-1, width))
            self._flat[at_values].index_copy_(0, window.write_at, values.reshape(-1, width))
        if window.read_rows is None:
            return window.reads[at_keys], window.reads[at_values]
        length = window.read_length
        return (
            self._storage[at_keys, window.read_rows, :, :length],
            self._storage[at_values, window.read_rows, :, :length],
        )

    def commit(self) -> None:
        """Count the tokens of the call opened by ``begin``."""
        for slot, length in self._pending:
            self._lengths[slot] = length
        self._pending = []
        self._window = None


def _as_slice(slots: Sequence[int]) -> slice | None:
    """The slots as one slice if they are neighbours in ascending order."""
    first = slots[0]
    if list(slots) == list(range(first, first + len(slots))):
        return slice(first, first + len(slots))
    return None

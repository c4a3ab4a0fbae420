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
    """Where one call writes and what it reads, the same for every layer."""

    rows: slice | torch.Tensor
    write_rows: torch.Tensor | None
    write_at: slice | torch.Tensor
    read_length: int


class SlotCache:
    """Keys and values of S rows, per layer [S, H, max_length + 1, D].

    Pass it to a transformers language model as ``past_key_values``; it implements ``update``, all
    that attention layers call, and no more: masks and positions come from the session. Each call is
    framed by ``begin`` and ``commit``; without ``commit`` the call leaves no trace.
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
        shape = (num_slots, num_heads, max_length + 1, head_size)
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
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
            self._window = _Window(
                rows=slice(slots[0], slots[0] + 1),
                write_rows=None,
                write_at=slice(lengths[0], read_length),
                read_length=read_length,
            )
            if widest == 1 or lengths[0] == 0:
                return None
            ones = torch.ones(1, 1, widest, read_length, dtype=torch.bool, device=self._device)
            return ones.tril(lengths[0])
        starts = torch.tensor(lengths, device=self._device)[:, None]
        positions = starts + torch.arange(widest, device=self._device)
        slot_ids = torch.tensor(slots, device=self._device)
        self._window = _Window(
            rows=_as_slice(slots) or slot_ids,
            write_rows=slot_ids[:, None],
            write_at=positions.clamp(max=self._max_length),
            read_length=read_length,
        )
        if widest == 1 and min(lengths) == max(lengths):
            return None
        return torch.arange(read_length, device=self._device) <= positions[:, None, :, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values [B, H, L, D] of one layer; returns all that the rows read so far.

        The result [B, H, N, D] is a view when the rows are neighbours, so always for one row.
        """
        window = self._window
        if window is None:
            raise RuntimeError("SlotCache.update outside begin and commit")
        stored_keys, stored_values = self._keys[layer_idx], self._values[layer_idx]
        if window.write_rows is None:
            stored_keys[window.rows, :, window.write_at] = keys
            stored_values[window.rows, :, window.write_at] = values
        else:
            stored_keys[window.write_rows, :, window.write_at] = keys.transpose(1, 2)
            stored_values[window.write_rows, :, window.write_at] = values.transpose(1, 2)
        return (
            stored_keys[window.rows, :, : window.read_length],
            stored_values[window.rows, :, : window.read_length],
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

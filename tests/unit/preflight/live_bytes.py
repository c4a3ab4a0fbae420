"""Counting the bytes of tensors that are alive, on the meta device, where nothing is computed."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """``peak``: most bytes alive at once of what was made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._count((args, kwargs), is_new=False)  # it was there before, if it is unknown
        result = func(*args, **kwargs)
        self._count(result, is_new=True)
        return result

    def _count(self, tree: Any, is_new: bool) -> None:
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, torch.Tensor) or tensor.device.type != "meta":
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self._known:
                continue
            num_bytes = storage.nbytes() if is_new else 0
            self._known.add(storage._cdata)
            self._now += num_bytes
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, storage._cdata, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._now -= num_bytes

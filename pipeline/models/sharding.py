"""A target's decoder split over ranks by DeepSpeed's AutoTP, as plain layers that our stack packs.

Shapes: R rows, I input features, O output features, V vocabulary, W ranks.

Of a decoder layer, q, k, v, gate and up are split by output (whole heads), o and down by input, and
the two latter are summed over ranks: two all-reduces a layer. DeepSpeed's own policy for these
families also cuts the vision tower, wrongly, so the policy here names the decoder layer alone. The
output head is split by vocabulary; embeddings, norms and the vision tower are whole on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from pipeline.models.errors import ModelLoadError
from pipeline.models.packed_linear import Linear, fuse

Collective = Callable[[torch.Tensor], torch.Tensor]
_BY_OUTPUT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
              "mlp.gate_proj", "mlp.up_proj")  # fmt: skip
_BY_INPUT = ("self_attn.o_proj", "mlp.down_proj")


class Ranks(Protocol):
    """What sharding needs of a gang (pipeline.gang.world.World has it)."""

    rank: int
    size: int

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place."""

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, in place."""

    def join_columns(self, part: torch.Tensor) -> torch.Tensor:
        """Parts [R, N] of all ranks side by side, [R, W * N]."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a rank's part of a parameter lies: from ``start`` to before ``stop`` along ``dim``."""

    dim: int
    start: int
    stop: int


class RowParallelLinear(nn.Module):
    """A layer split by input: the sum over ranks of the ranks' products, [R, I / W] to [R, O]."""

    _product: Linear
    _all_reduce: Collective

    def __init__(self, linear: nn.Linear, all_reduce: Collective) -> None:
        super().__init__()
        if linear.bias is not None:
            raise ValueError("a bias would be added once by every rank")
        self._product = fuse([linear], release=True)
        self._all_reduce = all_reduce

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[R, I / W] to [R, O]."""
        return self._all_reduce(self._product(x))


class VocabParallelHead(nn.Module):
    """An output head split by vocabulary, [R, E] to [R, V] (and W - 1 rows of padding at most)."""

    _product: Linear
    _join_columns: Collective

    def __init__(self, linear: nn.Linear, join_columns: Collective) -> None:
        super().__init__()
        self._product = fuse([linear], release=True)
        self._join_columns = join_columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the whole vocabulary, on every rank."""
        return self._join_columns(self._product(x))


def check_divides(text_config: Any, num_ranks: int, name: str) -> None:
    """Raise ModelLoadError unless heads and features deal out evenly over the ranks."""
    fields = ("num_key_value_heads", "num_attention_heads", "intermediate_size")
    counts = {field: int(getattr(text_config, field)) for field in fields}
    common = math.gcd(*counts.values())
    for field, count in counts.items():
        if count % num_ranks:
            possible = [n for n in range(1, common + 1) if common % n == 0]
            raise ModelLoadError(
                f"{name}: {field} {count} does not divide by models.tensor_parallel_size "
                f"{num_ranks}; use one of {possible}"
            )


def cut_layers(language_model: nn.Module, dtype: torch.dtype, num_ranks: int) -> nn.Module:
    """Cut a decoder that is on the meta device; its layers have this rank's part, not yet filled.

    Needs DeepSpeed's distributed world. Returns the decoder, whose layers are plain ``nn.Linear``.
    """
    import deepspeed  # seconds to import: only a rank does

    layers: Any = language_model.layers
    engine = deepspeed.init_inference(
        language_model,
        tensor_parallel={"tp_size": num_ranks},
        dtype=dtype,
        replace_with_kernel_inject=False,
        injection_policy={type(layers[0]): _BY_INPUT},
    )
    decoder: nn.Module = engine.module
    for layer in decoder.layers:  # type: ignore[union-attr]
        for path in (*_BY_OUTPUT, *_BY_INPUT):
            parent, _, name = path.rpartition(".")
            owner = layer.get_submodule(parent)
            setattr(owner, name, _plain(getattr(owner, name)))
    return decoder


def _plain(part: Any) -> nn.Linear:
    """DeepSpeed's layer as an ``nn.Linear`` of the same, already cut, parameters."""
    rows, columns = part.weight.shape
    linear = nn.Linear(columns, rows, bias=False, device="meta")
    linear.weight, linear.bias = part.weight, part.bias
    return linear


def sum_over_ranks(decoder: nn.Module, all_reduce: Collective) -> None:
    """Have the layers split by input sum their products; once they are filled."""
    for layer in decoder.layers:  # type: ignore[union-attr]
        for path in _BY_INPUT:
            parent, _, name = path.rpartition(".")
            owner = layer.get_submodule(parent)
            setattr(owner, name, RowParallelLinear(getattr(owner, name), all_reduce))


def cut_of(name: str, part: torch.Size, whole: torch.Size, rank: int) -> Cut | None:
    """Which part of a checkpoint's tensor a parameter holds; None: all of it.

    Raises ModelLoadError if the shapes don't fit each other.
    """
    if part == whole and not _is_cut(name):
        return None
    layer = name.rpartition(".")[0]
    dim = 1 if layer.endswith(_BY_INPUT) else 0
    others = [i for i in range(len(whole)) if i != dim]
    if _is_cut(name) and len(part) == len(whole) and all(part[i] == whole[i] for i in others):
        start = min(rank * part[dim], whole[dim])
        return Cut(dim, start, min(start + part[dim], whole[dim]))
    raise ModelLoadError(f"{name} has the shape {tuple(whole)}, the config asks {tuple(part)}")


def _is_cut(name: str) -> bool:
    """Layers of the vision tower can have the same names, and are whole."""
    layer = name.rpartition(".")[0]
    in_decoder = layer.startswith("model.language_model.layers.")
    return layer == "lm_head" or (in_decoder and layer.endswith((*_BY_OUTPUT, *_BY_INPUT)))

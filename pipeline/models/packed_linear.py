"""Linear layers as a decode step wants them: fused where they read the same input, and packed.

Shapes: R rows (all tokens of a call), I input features, O output features of all fused layers.

At a few rows a linear layer costs what reading its weight costs. On CPU, oneDNN's blocked layout
reads it fastest: 2 to 3 times as fast as ``F.linear`` at 4 to 17 rows, in fp32 and bf16. Tiny fp32
weights are the exception: there each oneDNN call costs more than the product, a plain one is less.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[R, I] to [R, O]."""

# oneDNN chooses its blocks for this many rows. Packed for 8 it is fast from 1 row to 44; packed for
# 1 row it is no faster there and half as fast at 8.
_ROWS_HINT = 8
# Below this many weights an fp32 product costs less than the call of oneDNN's (25 us against 8).
_SMALL_WEIGHT = 2**17


def fuse(
    modules: Sequence[nn.Module], num_outputs: int | None = None, *, release: bool = False
) -> Linear:
    """One call for linear layers that read the same input; outputs side by side, in order.

    ``num_outputs`` keeps the first output features only. Modules that are not plain ``nn.Linear``
    (tensor-parallel ones, or with hooks) are called as they are. On CPU the weights are copied into
    the packed layout, so they are held twice; elsewhere the modules' weights become views of the
    fused one, so nothing is. ``release`` gives the modules' own up instead of holding them twice.
    """
    linears = [module for module in modules if _is_plain(module)]
    if len(linears) < len(modules):
        return partial(_call_all, tuple(modules), num_outputs)
    weights = [linear.weight.detach() for linear in linears]
    bias = _fused_bias(linears, num_outputs)
    if weights[0].device.type != "cpu":
        return partial(_dense, _share(linears)[:num_outputs], bias)
    fused = torch.cat(weights) if len(weights) > 1 else weights[0]
    if release:
        del weights
        for linear in linears:
            linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)
    packed = pack(fused[:num_outputs], bias)
    if release:
        del fused
        _return_freed_memory()
    return packed


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The fastest form of a CPU weight [O, I] and its bias [O]."""
    if weight.dtype is torch.float32 and weight.numel() <= _SMALL_WEIGHT:
        return partial(_transposed, weight.t().contiguous(), bias)
    if not _can_pack(weight.dtype):
        return partial(_dense, weight.contiguous(), bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)
    return partial(_packed, torch.ops.mkldnn._linear_pointwise.default, packed, bias)


def _packed(
    op: Callable[..., torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    x: torch.Tensor,
) -> torch.Tensor:
    return op(x, weight, bias, "none", [], "")


def _transposed(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    output = torch.mm(x, weight)
    return output if bias is None else output.add_(bias)  # addmm first copies the bias: slower


def _dense(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight, bias)


def _call_all(
    modules: tuple[nn.Module, ...], num_outputs: int | None, x: torch.Tensor
) -> torch.Tensor:
    outputs = [module(x) for module in modules]
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    return joined if num_outputs is None else joined[..., :num_outputs]


def _return_freed_memory() -> None:
    """Have the C library give freed pages back to the system, where it can (glibc).

    It keeps freed blocks of up to 32 MiB for itself. Packed weights are a little larger than the
    plain ones that they replace and don't fit into their place, so a rank would grow to hold both.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or no POSIX
        return None
    return trim


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is its weight and bias and nothing else: no subclass, hook or override."""
    return (
        type(module) is nn.Linear
        and type(module.weight.data) is torch.Tensor
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in module.__dict__
    )


def _fused_bias(linears: Sequence[nn.Linear], num_outputs: int | None) -> torch.Tensor | None:
    """Biases side by side, zeros for a layer without one; None if no layer has any."""
    if all(linear.bias is None for linear in linears):
        return None
    biases = [
        torch.zeros_like(linear.weight[:, 0]) if linear.bias is None else linear.bias.detach()
        for linear in linears
    ]
    return torch.cat(biases)[:num_outputs].contiguous()


def _share(linears: Sequence[nn.Linear]) -> torch.Tensor:
    """The fused weight; the layers' own weights become views of it."""
    if len(linears) == 1:
        return linears[0].weight.detach()
    fused = torch.cat([linear.weight.detach() for linear in linears])
    start = 0
    for linear in linears:
        stop = start + linear.weight.shape[0]
        linear.weight.data = fused[start:stop]
        start = stop
    return fused


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has the packed layout for this dtype on this processor."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    ):
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32

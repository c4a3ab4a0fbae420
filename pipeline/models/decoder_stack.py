"""The decoder layers of both families as few operations, on the transformers modules' weights.

Shapes: B rows of the call, L new tokens of the longest, N cached tokens that are read, R = B * L,
E hidden size, Q query heads, H key/value heads, D head size, P positions, V vocabulary.

Qwen2.5-VL's text model and LLaVA-OneVision's Qwen2 are one architecture but for how positions
become angles, which stays their own module's business. transformers' forward of it spends more time
between the products than in them when a few tokens are decoded; a small draft is all overhead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.decoding.cache import SlotCache
from pipeline.decoding.session import NO_TAPS, Taps
from pipeline.models.attention import plan_attention
from pipeline.models.packed_linear import Linear, fuse


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Angles of P positions: ``table`` [P, 2, 1, D] holds cosines, then sines.

    The sines' first half is negated. Then rotating is ``x * cos + roll(x, D / 2) * sin``, with no
    negation in a layer.
    """

    table: torch.Tensor

    def between(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [L, 1, D] of the positions from ``start`` to before ``stop``."""
        cos, sin = self.table[start:stop].unbind(1)
        return cos, sin

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [B, L, 1, D] of positions [B, L]."""
        chosen = self.table.index_select(0, positions.flatten())
        cos, sin = chosen.view(*positions.shape, *self.table.shape[1:]).unbind(2)
        return cos, sin


@dataclass(frozen=True, slots=True, eq=False)
class StackOutput:
    """What the layers made of B x L tokens.

    hidden [B, L, E] before the last norm; states [B, L, E] after the tapped layer; attention
    [B, L', N] float32 of the last L' tokens in the tapped layer, mean over heads (of all ranks).
    """

    hidden: torch.Tensor
    states: torch.Tensor | None
    attention: torch.Tensor | None


class _Norm:
    """RMS norm: x / sqrt(mean(x^2) + eps) * weight, in float32 within."""

    def __init__(self, module: Any) -> None:
        self._weight: torch.Tensor = module.weight.detach()
        self._eps = float(module.variance_epsilon)
        size = self._weight.shape[0]
        # sqrt(mean + eps) is hypot(|x|, sqrt(size * eps)) / sqrt(size): 4 operations, where torch
        # on CPU makes its rms_norm of 7. Elsewhere that is one kernel.
        self._scaled_weight = self._weight.float() * math.sqrt(size)
        self._floor = torch.tensor(math.sqrt(size * self._eps), device=self._weight.device)
        self._by_hypot = self._weight.device.type == "cpu"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[R, E] to [R, E]."""
        if not self._by_hypot:
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        length = torch.linalg.vector_norm(x, 2, -1, True, dtype=torch.float32)
        normed = x * (self._scaled_weight / torch.hypot(length, self._floor))
        return normed if x.dtype is torch.float32 else normed.to(x.dtype)


class _Layer:
    """The parts of one decoder layer."""

    __slots__ = ("activation", "down", "gate_up", "input_norm", "mlp_norm", "output", "qkv")

    def __init__(self, layer: Any, release: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.input_norm = _Norm(layer.input_layernorm)
        self.qkv: Linear = fuse(
            [attention.q_proj, attention.k_proj, attention.v_proj], release=release
        )
        self.output: Linear = fuse([attention.o_proj], release=release)
        self.mlp_norm = _Norm(layer.post_attention_layernorm)
        self.gate_up: Linear = fuse([mlp.gate_proj, mlp.up_proj], release=release)
        self.activation: Callable[[torch.Tensor], torch.Tensor] = (
            F.silu if isinstance(mlp.act_fn, nn.SiLU) else mlp.act_fn
        )
        self.down: Linear = fuse([mlp.down_proj], release=release)


class DecoderStack:
    """Layers, last norm and head of one model, packed once and shared by all its sessions.

    The weights are read at construction: what changes them later must build another stack.
    """

    def __init__(
        self,
        decoder: Any,
        lm_head: nn.Module,
        head_size: int,
        vocab_size: int,
        mean_over_ranks: Callable[[torch.Tensor], torch.Tensor] | None = None,
        release: bool = False,
    ) -> None:
        """``mean_over_ranks`` is what makes attention of this rank's heads that of all heads.

        ``release`` gives up the modules' own weights, layer by layer, where packing copies them
        (CPU): the stack alone can be used then.
        """
        first = decoder.layers[0].self_attn
        # By the weights' own shapes: a tensor-parallel rank holds a part of the heads.
        self.num_kv_heads = first.k_proj.weight.shape[0] // head_size
        self.head_size = head_size
        self.vocab_size = vocab_size
        self.embedding: nn.Module = decoder.embed_tokens
        self._mean_over_ranks = mean_over_ranks
        self._num_heads = first.q_proj.weight.shape[0] // head_size
        self._decoder = decoder
        with torch.inference_mode():
            self._layers = [_Layer(layer, release) for layer in decoder.layers]
            self._norm = _Norm(decoder.norm)
            self._head = fuse([lm_head], vocab_size, release=release)
            self._text_rope = self.rope(torch.arange(0, device=self.device))

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self._layers)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, states and cache."""
        dtype: torch.dtype = self._decoder.norm.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Of weights, states and cache."""
        device: torch.device = self._decoder.norm.weight.device
        return device

    def rope(self, positions: torch.Tensor) -> Rope:
        """Of positions [P], or [3, P] where the family counts time, rows and columns apart."""
        like = self._decoder.norm.weight
        cos, sin = self._decoder.rotary_emb(like, positions[..., None, :])
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return Rope(torch.stack([cos[0], sin[0]], dim=1)[:, :, None])

    def text_rope(self, num_positions: int) -> Rope:
        """Of at least the positions 0 to ``num_positions`` - 1, where all axes count alike."""
        if len(self._text_rope.table) < num_positions:
            self._text_rope = self.rope(torch.arange(num_positions, device=self.device))
        return self._text_rope

    def run(
        self,
        embeddings: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
        cache: SlotCache,
        seen: torch.Tensor | None,
        taps: Taps = NO_TAPS,
        num_attending: int = 0,
    ) -> StackOutput:
        """Run embeddings [B, L, E] through all layers within a cache's ``begin`` and ``commit``.

        ``rope`` is the cosines and sines of the tokens' positions, ``seen`` what ``begin``
        returned. The attention tap is read for the last ``num_attending`` tokens of each row.
        """
        rows, length, _ = embeddings.shape
        num_rotated = self._num_heads + self.num_kv_heads
        groups = self._num_heads // self.num_kv_heads
        half = self.head_size // 2
        attend = plan_attention(seen, length, groups, embeddings.dtype)
        cos, sin = rope
        states = attention = None
        x = embeddings.reshape(rows * length, -1)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(layer.input_norm(x)).view(rows, length, -1, self.head_size)
            plain = qkv[:, :, :num_rotated]
            rotated = torch.addcmul(plain * cos, plain.roll(half, -1), sin)
            queries = rotated[:, :, : self._num_heads]
            keys, values = cache.update(
                rotated[:, :, self._num_heads :], qkv[:, :, num_rotated:], index
            )
            if num_attending and index == taps.attention_layer:
                attention = attend.weights(queries, keys, num_attending)
                if self._mean_over_ranks is not None:
                    attention = self._mean_over_ranks(attention)
            x = x + layer.output(attend(queries, keys, values))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
            x = x + layer.down(layer.activation(gate) * up)
            if index == taps.states_layer:
                states = x.view(embeddings.shape)
        return StackOutput(x.view(embeddings.shape), states, attention)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 scores [..., V] of hidden states [..., E] that ``run`` returned."""
        scores = self._head(self._norm(hidden.reshape(-1, hidden.shape[-1])))
        return scores.float().view(*hidden.shape[:-1], self.vocab_size)

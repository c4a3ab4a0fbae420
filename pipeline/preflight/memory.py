"""Memory of one rank: weights, keys and values, activations. Pure arithmetic, in bytes.

Shapes: W ranks, V vocabulary, E hidden size, I of the MLP, Q query heads, H key/value heads, D head
size, T prompt tokens, C tokens of a prefill chunk, N cached tokens of a row, B rows, K drafted
tokens.

The decoder layers' projections are dealt out over the ranks, and the output head by rows of the
vocabulary; vision tower, embeddings and norms are whole on every rank, as
pipeline/models/sharding.py has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.preflight.device import GIB
from pipeline.preflight.errors import PreflightError
from pipeline.preflight.prompt import Prompt
from pipeline.preflight.vision import VisionSizes

CONTEXT_BYTES = 3 * GIB // 2
"""Of a GPU, for what is no tensor of ours: the CUDA context and loaded kernels (about 0.5 GiB),
cuBLAS work spaces, NCCL's channels (0.3 to 0.6 GiB at eight ranks), and fragments of the allocator.
Reckoned, not measured."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A model's parameters by the way they are dealt out, and what its memory depends on."""

    split_params: int
    norm_params: int
    vision_params: int
    vocab_size: int
    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    is_tied: bool
    itemsize: int
    vision: VisionSizes


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one model on one rank, bytes. ``layers`` has the norms, ``embeddings`` the head too."""

    layers: int
    vision: int
    embeddings: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.vision + self.embeddings


@dataclass(frozen=True, slots=True)
class Load:
    """What the models have to do at once: rows, drafted tokens, prefill chunk, slot length."""

    num_rows: int
    num_drafted: int
    chunk_tokens: int
    slot_tokens: int


def possible_ranks(sizes: ModelSizes) -> list[int]:
    """Numbers of ranks over which heads and features deal out evenly."""
    common = math.gcd(sizes.num_kv_heads, sizes.num_heads, sizes.intermediate)
    return [n for n in range(1, common + 1) if common % n == 0]


def check_divides(sizes: ModelSizes, num_ranks: int) -> None:
    """Raise PreflightError unless heads and features deal out evenly."""
    counts = {
        "num_key_value_heads": sizes.num_kv_heads,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": sizes.intermediate,
    }
    for name, count in counts.items():
        if count % num_ranks:
            *others, last = map(str, possible_ranks(sizes))
            choice = f"{', '.join(others)} or {last}" if others else last
            raise PreflightError(
                f"{name} {count} does not divide by tensor_parallel_size {num_ranks}: use {choice}"
            )


def weights(sizes: ModelSizes, num_ranks: int) -> Weights:
    """Of one rank, that with the longest part of the vocabulary.

    A tied head is the embedding itself on one rank; several hold their part of it once more.
    """
    matrix = sizes.vocab_size * sizes.hidden
    head = math.ceil(sizes.vocab_size / num_ranks) * sizes.hidden
    if sizes.is_tied and num_ranks == 1:
        head = 0
    return Weights(
        layers=(sizes.split_params // num_ranks + sizes.norm_params) * sizes.itemsize,
        vision=sizes.vision_params * sizes.itemsize,
        embeddings=(matrix + head) * sizes.itemsize,
    )


def kv_bytes_per_token(sizes: ModelSizes, num_ranks: int) -> int:
    """Keys and values of all layers, of one rank's heads."""
    heads = sizes.num_kv_heads // num_ranks
    return 2 * sizes.num_layers * heads * sizes.head_size * sizes.itemsize


def activation_bytes(sizes: ModelSizes, num_ranks: int, prompt: Prompt, load: Load) -> int:
    """Upper bound of all that a rank makes of one model beside weights and cache.

    A prompt's embeddings and rope table stay while it is read in chunks, between which the other
    rows go on: so they are added to the widest of encoding, a chunk, and a verification.
    """
    item, hidden = sizes.itemsize, sizes.hidden
    encoding = sizes.vision.activation_bytes(
        prompt.num_frames, prompt.frame_pixels, hidden, item
    )  # then TransformersSession._embed: looked up and cloned, the clone is what stays
    encoding = max(encoding, 2 * prompt.num_tokens * hidden * item)
    stays = prompt.num_tokens * (hidden + 2 * sizes.head_size) * item
    return stays + max(
        encoding, chunk_bytes(sizes, num_ranks, load), verify_bytes(sizes, num_ranks, load)
    )


def chunk_bytes(sizes: ModelSizes, num_ranks: int, load: Load) -> int:
    """DecoderStack.run on C prompt tokens of one row, with what its loop still holds of a layer.

    Mask (SlotCache.begin and plan_attention: bool twice, then added): 2 + itemsize a score, once
    for all heads. Throughout: x, norm, output (3 C E); q, k, v (C (Q + 2 H) D). In attention: three
    of rotating (3 C (Q + H) D), keys and values repeated to all heads (2 N Q D), output twice
    (2 C Q D), the layer before's gate and up (2 C I). In the MLP: rotated (C (Q + H) D), gate and
    up, activation, product (4 C I). Scores are never stored: the kernels that torch takes for
    masked attention on GPUs are fused.
    """
    item, chunk, cached = sizes.itemsize, load.chunk_tokens, load.slot_tokens
    queries = sizes.num_heads // num_ranks * sizes.head_size
    keys = sizes.num_kv_heads // num_ranks * sizes.head_size
    features = sizes.intermediate // num_ranks
    mask = chunk * cached * (2 + item)
    throughout = chunk * (3 * sizes.hidden + queries + 2 * keys)
    attention = chunk * (5 * queries + 3 * keys + 2 * features) + 2 * cached * queries
    mlp = chunk * (queries + keys + 4 * features)
    return mask + item * (throughout + max(attention, mlp))


def verify_bytes(sizes: ModelSizes, num_ranks: int, load: Load) -> int:
    """DecoderStack.run and .logits on K + 1 tokens of each of B rows.

    Keys and values of rows that are no neighbours are gathered (SlotCache.update) while those of
    the layer before are held; the mask is repeated for each query head of a group. Scores of V
    tokens are held in the dtype, a rank's part and the whole, on all ranks, and in float32.
    """
    item, tokens = sizes.itemsize, load.num_rows * (load.num_drafted + 1)
    keys = sizes.num_kv_heads // num_ranks * sizes.head_size
    groups = sizes.num_heads // sizes.num_kv_heads
    gathered = 4 * load.num_rows * load.slot_tokens * keys * item
    mask = tokens * load.slot_tokens * (2 + item * (1 + groups))
    wide = tokens * item * (3 * sizes.hidden + 4 * sizes.intermediate // num_ranks)
    logits = tokens * sizes.vocab_size * (4 + 2 * item)
    return gathered + mask + wide + logits

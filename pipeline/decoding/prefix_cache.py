"""Read prompts that are kept for further questions about the same video.

Shapes: N layers, H key/value heads, L prefix tokens, D head size, M visual tokens of the prefix, E
hidden size.

A prompt's prefix ends with its last visual token. What a model computes of it depends on its tokens
and frames alone, so a second question on the video reads only what follows; the vision tower, most
of the work, is not asked again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch

from pipeline.decoding.session import ModelInputs


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """keys_and_values [2 * N, H, L, D]; visual_states [M, E] of the tapped layer, None untapped."""

    keys_and_values: torch.Tensor
    visual_states: torch.Tensor | None

    @property
    def num_tokens(self) -> int:
        """L."""
        return int(self.keys_and_values.shape[2])

    @property
    def num_bytes(self) -> int:
        """Memory of all of it."""
        states = 0 if self.visual_states is None else self.visual_states.nbytes
        return self.keys_and_values.nbytes + states


def prefix_key(inputs: ModelInputs) -> str | None:
    """What the prefix is known by; None where there is no video, or it is not known which.

    Also where nothing follows the video: a prompt must have something left to read.
    """
    num_tokens = prefix_length(inputs)
    if inputs.frames_digest is None or not 0 < num_tokens < inputs.num_tokens:
        return None
    digest = hashlib.blake2b(inputs.frames_digest.encode(), digest_size=16)
    digest.update(inputs.token_ids[:num_tokens].numpy().tobytes())
    if inputs.kept_visual is not None:
        digest.update(inputs.kept_visual.cpu().numpy().tobytes())
    return digest.hexdigest()


def prefix_length(inputs: ModelInputs) -> int:
    """L: tokens up to the last visual one; 0 without a video."""
    visual = inputs.visual_mask.nonzero()
    return int(visual[-1]) + 1 if len(visual) else 0


class PrefixCache:
    """The prefixes last used, of one model and one set of taps, in host memory.

    Not thread-safe. ``max_bytes`` bounds what is kept; a prefix that alone is larger is not.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()
        self._num_bytes = 0
        self.num_queries = 0
        self.num_hits = 0

    def __contains__(self, key: str) -> bool:
        return key in self._prefixes

    def get(self, key: str) -> Prefix | None:
        """The prefix, which is then the one used last; counts queries and hits."""
        self.num_queries += 1
        prefix = self._prefixes.get(key)
        if prefix is not None:
            self.num_hits += 1
            self._prefixes.move_to_end(key)
        return prefix

    def put(self, key: str, prefix: Prefix) -> None:
        """Keep a prefix, and let go of those longest unused."""
        if key in self._prefixes or prefix.num_bytes > self._max_bytes:
            return
        self._prefixes[key] = prefix
        self._num_bytes += prefix.num_bytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._prefixes.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

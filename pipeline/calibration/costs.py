"""What a round costs by K: measured once, so that settings are chosen by what is deterministic.

method.md, section 5: tokens per second are (T + 1) / (K r + v), r and v in target steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from pipeline.calibration.reading import TargetCaption, open_reader, opened
from pipeline.decoding.sessions import DecodingModel

_REPEATS = 15
_DRAFT_STEPS = 4
LENGTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24)


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Seconds at batch 1: ``verify_s[k]`` of the target's step on k drafted tokens (0: a plain
    step; ascending, what is between is interpolated), ``draft_s`` of a draft step."""

    draft_s: float
    verify_s: Mapping[int, float]

    @property
    def draft_ratio(self) -> float:
        """r: a draft step over a plain target step."""
        return self.draft_s / self.verify_s[0]

    def verify_ratio(self, k: float) -> float:
        """v: a verification of k drafted tokens over a plain target step."""
        # More tokens never cost less; where a median says so, it was noise.
        seconds = np.maximum.accumulate(list(self.verify_s.values()))
        return float(np.interp(k, list(self.verify_s), seconds)) / self.verify_s[0]

    def speed_up(self, tokens_per_step: float, k: float) -> float:
        """Over plain decoding, with so many tokens a target step (the bonus included) of which k
        were drafted; both may be means."""
        return tokens_per_step / (k * self.draft_ratio + self.verify_ratio(k))


def measure_costs(
    target: DecodingModel,
    draft: DecodingModel,
    caption: TargetCaption,
    lengths: Sequence[int] = LENGTHS,
) -> RoundCosts:
    """Medians over 15 interleaved turns on the caption's first tokens; ``lengths`` ascend.

    Lengths of which the caption has not so many tokens are left out: no block is so long then.
    Raises ValueError if it is shorter than the first one's block, or has no draft inputs.
    """
    widest = max(lengths[0] + 1, _DRAFT_STEPS)
    tokens = caption.token_ids
    lengths = [k for k in lengths if k < len(tokens)]
    if len(tokens) < widest or caption.request.draft is None:
        raise ValueError(f"clip {caption.request.clip_id}: not {widest} tokens, or no draft inputs")
    prompts = caption.request.target, caption.request.draft
    target_session = open_reader(target, prompts[:1], len(tokens))
    draft_session = open_reader(draft, prompts[1:], len(tokens))
    seconds: dict[int, list[float]] = {k: [] for k in (0, *lengths)}
    draft_seconds: list[float] = []
    with opened(target_session, prompts[0]) as verifier, opened(draft_session, prompts[1]) as maker:
        for turn in range(_REPEATS + 1):  # the first one warms up
            for k, times in seconds.items():
                started = perf_counter()
                verifier.read(tokens[: k + 1]).logits.argmax(-1).tolist()
                times.append(perf_counter() - started)
            for position in range(_DRAFT_STEPS):
                started = perf_counter()
                maker.read(tokens[position : position + 1], after=position).logits.argmax().item()
                draft_seconds.append(perf_counter() - started)
            if turn == 0:
                draft_seconds.clear()
                for times in seconds.values():
                    times.clear()
    return RoundCosts(median(draft_seconds), {k: median(t) for k, t in seconds.items()})

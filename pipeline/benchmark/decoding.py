"""How fast and how right each decoding method is, on the same clips in one interleaved run.

The machine's speed drifts, so methods are never timed one after the other as a whole: every batch
of clips is decoded by all methods in turn, each time starting with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import GenerationConfig, SpeculationConfig, SpeculationMethod
from pipeline.decoding.engine import CaptionEngine, DecodingModel
from pipeline.decoding.request import CaptionRequest
from pipeline.records import Caption
from pipeline.statistics import Estimate, bootstrap, bootstrap_mean, speed_up

PLAIN = "autoregressive"


@dataclass(frozen=True, slots=True)
class Method:
    """A way to decode, by the name that the report gives it."""

    name: str
    speculation: SpeculationConfig


def standard_methods(num_speculative_tokens: Sequence[int]) -> list[Method]:
    """Plain decoding, and the exact chain at each K."""
    plain = SpeculationConfig(method=SpeculationMethod.NONE)
    return [
        Method(PLAIN, plain),
        *(
            Method(f"exact K={k}", SpeculationConfig(num_speculative_tokens=k))
            for k in num_speculative_tokens
        ),
    ]


@dataclass(frozen=True, slots=True)
class BenchmarkClip:
    """A clip ready to decode, and how right a caption of it is (0 to 1)."""

    request: CaptionRequest
    score: Callable[[str], float]


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method at one batch size. Speed-ups are against plain decoding of the same batches.

    ``speed_up`` is of decoding alone; ``speed_up_with_prefill`` counts both models' prefills too.
    ``facts_right`` is the mean share of a clip's facts that its caption states rightly. Estimates
    are over clips.
    """

    method: str
    batch: int
    num_clips: int
    tokens_per_s: float
    clips_per_min: float
    mean_accepted_length: float
    speed_up: Estimate
    speed_up_with_prefill: Estimate
    same_text_share: float
    facts_right: Estimate


def measure(
    target: DecodingModel,
    draft: DecodingModel,
    generation: GenerationConfig,
    methods: Sequence[Method],
    clips: Sequence[BenchmarkClip],
    batch: int,
) -> list[MethodResult]:
    """Decode all clips by all methods in batches of ``batch``; the first batch warms up unseen.

    ``methods`` must hold plain decoding, named PLAIN.
    """
    engines = {m.name: CaptionEngine(target, draft, generation, m.speculation) for m in methods}
    requests = [clip.request for clip in clips]
    for engine in engines.values():
        engine.caption(requests[:batch])
    captions: dict[str, list[Caption]] = {name: [] for name in engines}
    for turn, start in enumerate(range(0, len(requests), batch)):
        for name in _rotated(list(engines), turn):
            captions[name].extend(engines[name].caption(requests[start : start + batch]))
    return [_result(name, batch, captions, clips) for name in engines]


def _rotated(names: Sequence[str], turn: int) -> Iterator[str]:
    for index in range(len(names)):
        yield names[(index + turn) % len(names)]


def _result(
    name: str,
    batch: int,
    captions: Mapping[str, Sequence[Caption]],
    clips: Sequence[BenchmarkClip],
) -> MethodResult:
    ours, plain = captions[name], captions[PLAIN]
    tokens = np.array([caption.stats.output_tokens for caption in ours])
    plain_tokens = np.array([caption.stats.output_tokens for caption in plain])
    decode_s = np.array([caption.stats.decode_s for caption in ours])
    plain_decode_s = np.array([caption.stats.decode_s for caption in plain])
    prefill_s = np.array([caption.stats.prefill_s for caption in ours])
    plain_prefill_s = np.array([caption.stats.prefill_s for caption in plain])

    def speed_up_of(seconds: np.ndarray, plain_seconds: np.ndarray) -> Estimate:
        return bootstrap(np.column_stack([tokens, seconds, plain_tokens, plain_seconds]), speed_up)

    target_steps = sum(caption.stats.target_steps for caption in ours)
    return MethodResult(
        method=name,
        batch=batch,
        num_clips=len(ours),
        tokens_per_s=float(tokens.sum() / decode_s.sum()),
        clips_per_min=float(60 * len(ours) / (decode_s + prefill_s).sum()),
        mean_accepted_length=sum(c.stats.accepted_tokens for c in ours) / target_steps,
        speed_up=speed_up_of(decode_s, plain_decode_s),
        speed_up_with_prefill=speed_up_of(decode_s + prefill_s, plain_decode_s + plain_prefill_s),
        same_text_share=float(np.mean([a.token_ids == b.token_ids for a, b in zip(ours, plain)])),
        facts_right=bootstrap_mean(
            [clip.score(caption.text) for clip, caption in zip(clips, ours)]
        ),
    )

"""Settings tried by decoding: what they keep of the facts, and how fast the cost model finds them.

Everything here but the costs is deterministic: captions of a fixed K do not depend on the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.calibration.costs import RoundCosts
from pipeline.calibration.evidence import Pair
from pipeline.calibration.reading import TargetCaption
from pipeline.decoding.calibration import AnchorSettings
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.facts import FactExtractor, Facts, facts_kept
from pipeline.records import Caption
from pipeline.speculation_config import (
    AnchorConfig,
    SpeculationConfig,
    SpeculationMethod,
)
from pipeline.statistics import Estimate, bootstrap_mean


@dataclass(frozen=True, slots=True)
class Setting:
    """What a calibration chooses."""

    method: SpeculationMethod
    num_speculative_tokens: int
    anchors: AnchorSettings
    confidence_threshold: float = 0.0

    def __str__(self) -> str:
        anchors = self.anchors
        return (
            f"{self.method}, {anchors.score}, layer {anchors.layer}, {anchors.state}, "
            f"scope {anchors.quantile_scope}, lambda {anchors.relaxed_share:.3f}, "
            f"w {anchors.shift_window}, K {self.num_speculative_tokens}, "
            f"draft stops below {self.confidence_threshold:g}"
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting on a split.

    kept: facts kept by the name of what tells facts. mean_accepted_length excludes the bonus
    token; accepted_histogram[a] are target steps that kept a drafted tokens. speed_up is the cost
    model's, over plain decoding at batch 1.
    """

    setting: Setting
    kept: Mapping[str, Estimate]
    mean_accepted_length: float
    tokens_per_step: float
    accepted_histogram: tuple[int, ...]
    speed_up: float
    same_text: float


class Trials:
    """Decodes the clips of one split, by settings that may name the calibration at ``path``.

    ``extractors`` tell facts, by name. The draft's length is the setting's: an adaptive one would
    make captions depend on the clock.
    """

    def __init__(
        self,
        pair: Pair,
        captions: Sequence[TargetCaption],
        extractors: Mapping[str, FactExtractor],
        costs: RoundCosts,
        path: Path,
    ) -> None:
        self._pair = pair
        self._captions = captions
        self._extractors = extractors
        self._costs = costs
        self._path = path
        self._own = [self._facts(caption.token_ids) for caption in captions]

    def run(self, setting: Setting) -> Trial:
        """Decode all clips."""
        speculation = SpeculationConfig(
            method=setting.method,
            num_speculative_tokens=setting.num_speculative_tokens,
            calibration=str(self._path),
            drafting=self._pair.drafting.model_copy(
                update={"adaptive": False, "confidence_threshold": setting.confidence_threshold}
            ),
            anchors=AnchorConfig(**setting.anchors.model_dump()),
        )
        pair = self._pair
        engine = CaptionEngine(pair.target, pair.draft, pair.generation, speculation)
        captions = engine.caption([caption.request for caption in self._captions])
        facts = [self._facts(caption.token_ids) for caption in captions]
        kept = {
            name: bootstrap_mean(
                [facts_kept(ours[name], own[name]) for ours, own in zip(facts, self._own)]
            )
            for name in self._extractors
        }
        steps = sum(caption.stats.target_steps for caption in captions)
        # The first token is the prefill's.
        emitted = sum(caption.stats.output_tokens - 1 for caption in captions)
        per_step = emitted / steps if steps else 1.0
        drafted = sum(caption.stats.drafted_tokens for caption in captions) / max(steps, 1)
        same = [c.token_ids == own.token_ids for c, own in zip(captions, self._captions)]
        return Trial(
            setting=setting,
            kept=kept,
            mean_accepted_length=sum(c.stats.accepted_tokens for c in captions) / max(steps, 1),
            tokens_per_step=per_step,
            accepted_histogram=_added_up(captions),
            speed_up=self._costs.speed_up(per_step, drafted),
            same_text=float(np.mean(same)),
        )

    def _facts(self, token_ids: Sequence[int]) -> dict[str, Facts]:
        text = self._pair.target.decode_text(token_ids)
        return {name: facts_of(token_ids, text) for name, facts_of in self._extractors.items()}


def _added_up(captions: Sequence[Caption]) -> tuple[int, ...]:
    total = np.sum([caption.stats.accepted_histogram for caption in captions], axis=0)
    return tuple(int(count) for count in total)

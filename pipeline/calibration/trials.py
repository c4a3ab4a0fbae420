"""Settings tried by decoding: what they keep of the facts, and how fast the cost model finds them.

Everything here but the costs is deterministic: captions of a fixed K do not depend on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.calibration.costs import RoundCosts
from pipeline.calibration.reading import TargetCaption
from pipeline.config import GenerationConfig
from pipeline.decoding.calibration import AnchorSettings
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.facts import Facts, facts_kept
from pipeline.decoding.sessions import DecodingModel
from pipeline.records import Caption
from pipeline.speculation_config import (
    AnchorConfig,
    DraftingConfig,
    SpeculationConfig,
    SpeculationMethod,
)
from pipeline.statistics import Estimate, bootstrap_mean

FactsOf = Callable[[Sequence[int]], Facts]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a calibration chooses."""

    method: SpeculationMethod
    num_speculative_tokens: int
    anchors: AnchorSettings

    def __str__(self) -> str:
        anchors = self.anchors
        return (
            f"{self.method}, {anchors.score}, layer {anchors.layer}, {anchors.state}, "
            f"scope {anchors.quantile_scope}, lambda {anchors.relaxed_share:.3f}, "
            f"w {anchors.shift_window}, K {self.num_speculative_tokens}"
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

    ``extractors`` tell facts of token ids, by name. ``drafting`` but for its adaptive length, which
    would make captions depend on the clock.
    """

    def __init__(
        self,
        models: tuple[DecodingModel, DecodingModel],
        generation: GenerationConfig,
        drafting: DraftingConfig,
        captions: Sequence[TargetCaption],
        extractors: Mapping[str, FactsOf],
        costs: RoundCosts,
    ) -> None:
        self._models = models
        self._generation = generation
        self._drafting = drafting.model_copy(update={"adaptive": False})
        self._captions = captions
        self._extractors = extractors
        self._costs = costs
        self._own = {
            name: [facts_of(caption.token_ids) for caption in captions]
            for name, facts_of in extractors.items()
        }

    def run(self, setting: Setting, path: str) -> Trial:
        """Decode all clips."""
        speculation = SpeculationConfig(
            method=setting.method,
            num_speculative_tokens=setting.num_speculative_tokens,
            calibration=path,
            drafting=self._drafting,
            anchors=AnchorConfig(**setting.anchors.model_dump()),
        )
        engine = CaptionEngine(*self._models, self._generation, speculation)
        captions = engine.caption([caption.request for caption in self._captions])
        kept = {
            name: bootstrap_mean(
                [facts_kept(facts_of(c.token_ids), own) for c, own in zip(captions, owns)]
            )
            for (name, facts_of), owns in zip(self._extractors.items(), self._own.values())
        }
        steps = sum(caption.stats.target_steps for caption in captions)
        # The first token is the prefill's.
        emitted = sum(caption.stats.output_tokens - 1 for caption in captions)
        per_step = emitted / steps if steps else 1.0
        same = [c.token_ids == own.token_ids for c, own in zip(captions, self._captions)]
        return Trial(
            setting=setting,
            kept=kept,
            mean_accepted_length=sum(c.stats.accepted_tokens for c in captions) / max(steps, 1),
            tokens_per_step=per_step,
            accepted_histogram=_added_up(captions),
            speed_up=self._costs.speed_up(per_step, setting.num_speculative_tokens),
            same_text=float(np.mean(same)),
        )


def _added_up(captions: Sequence[Caption]) -> tuple[int, ...]:
    total = np.sum([caption.stats.accepted_histogram for caption in captions], axis=0)
    return tuple(int(count) for count in total)

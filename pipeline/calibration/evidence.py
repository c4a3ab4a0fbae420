"""What one split of clips shows of a pair: captions, mismatches and what comes of them, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.calibration.candidates import Candidate, CaptionTokens, Scores, contextual_scores
from pipeline.calibration.evaluation import Labels
from pipeline.calibration.harm import harmful
from pipeline.calibration.mismatches import continued, find_mismatches
from pipeline.calibration.reading import TargetCaption
from pipeline.calibration.sample_truth import SampleTruth
from pipeline.config import GenerationConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.facts import FactExtractor
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.base import VideoLM
from pipeline.progress import StepProgress
from pipeline.records import Caption
from pipeline.speculation_config import DraftingConfig, SpeculationConfig, SpeculationMethod


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What is calibrated: two models, the prompt, and how they decode and draft."""

    target: VideoLM
    draft: VideoLM
    prompt_id: str
    generation: GenerationConfig
    drafting: DraftingConfig


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """One split. ``endings[i]`` is the caption that ``tokens.mismatches[i]`` leads to."""

    tokens: CaptionTokens
    endings: Sequence[Sequence[int]]
    contextual: Mapping[Candidate, Scores]

    def labels(self, pair: Pair, judge: FactExtractor, truth: SampleTruth | None = None) -> Labels:
        """Which mismatches are harmful by ``judge``, and what ``truth`` knows beside."""
        captions, mismatches = self.tokens.captions, self.tokens.mismatches
        harm = harmful(captions, mismatches, self.endings, judge, pair.target.decode_text)
        if truth is None:
            return Labels(harm)
        return truth.labels(captions, mismatches, self.endings, harm)


def target_captions(
    pair: Pair, requests: Sequence[CaptionRequest], label: str, report: Callable[[str], None]
) -> list[TargetCaption]:
    """The target's own greedy captions, in order."""
    plain = SpeculationConfig(method=SpeculationMethod.NONE)
    engine = CaptionEngine(pair.target, None, pair.generation, plain)
    progress = StepProgress(f"{label}: captions of the target", len(requests), report)
    captions: dict[int, TargetCaption] = {}
    for answer in engine.caption_stream(requests):
        if not isinstance(answer.result, Caption):
            raise answer.result
        captions[answer.index] = TargetCaption(
            requests[answer.index], tuple(answer.result.token_ids)
        )
        progress.show(len(captions))
    return [captions[index] for index in range(len(requests))]


def gather(
    pair: Pair,
    captions: Sequence[TargetCaption],
    top_n: int,
    label: str,
    report: Callable[[str], None],
) -> Evidence:
    """Find the mismatches, let the target go on from each, and score them by every layer."""

    def told(what: str, total: int) -> Callable[[int], None]:
        return StepProgress(f"{label}: {what}", total, report).show

    mismatches = find_mismatches(pair.draft, captions, told("mismatches", len(captions)))
    stop = StopRule(pair.target.eos_token_ids, pair.generation.max_tokens)
    following = told("captions after a mismatch", len(mismatches))
    endings = continued(pair.target, captions, mismatches, stop, following)
    tokens = CaptionTokens(captions, mismatches)
    scoring = told("captions scored", tokens.num_readings(pair.target.num_layers))
    contextual = contextual_scores(pair.target, tokens, top_n, scoring)
    return Evidence(tokens, endings, contextual)

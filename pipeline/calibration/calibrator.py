"""From the clips of two splits to a calibration and what it is worth.

Everything is chosen on the calibration split. What the choice keeps of the facts, and how well the
scores judge mismatches, is then measured on the report split, by the same lexicon and weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.calibration.candidates import Candidate
from pipeline.calibration.choice import LONGEST_K, Search, choose
from pipeline.calibration.costs import RoundCosts, measure_costs
from pipeline.calibration.evaluation import Point, Row, points, rows
from pipeline.calibration.evidence import Pair, gather, target_captions
from pipeline.calibration.lexicon import LexiconCounts, count_moved
from pipeline.calibration.reading import TargetCaption
from pipeline.calibration.sample_truth import SampleTruth, true_facts
from pipeline.calibration.score import LearnedScore, learn_score
from pipeline.calibration.trials import Setting, Trial, Trials
from pipeline.decoding.calibration import (
    AnchorSettings,
    Calibration,
    PairIdentity,
    default_anchors,
    save_calibration,
)
from pipeline.decoding.facts import FactExtractor, VisualWords
from pipeline.decoding.request import CaptionRequest
from pipeline.progress import StepProgress
from pipeline.speculation_config import QuantileScope, SpeculationMethod

NUM_OTHER_VIDEOS = 4
VISUAL_WORDS, SAMPLE_FACTS = "visual words", "facts of the sample world"
_CALIBRATION, _REPORT = "calibration split", "report split"


@dataclass(frozen=True, slots=True)
class Goal:
    """The mean share of facts kept that the choice must reach on the calibration split.

    Facts are told by the lexicon's visual words or, ``in_sample_world``, by that world's grammar,
    which knows synonyms.
    """

    min_facts_kept: float
    in_sample_world: bool

    @property
    def judged_by(self) -> str:
        """The name of what tells facts."""
        return SAMPLE_FACTS if self.in_sample_world else VISUAL_WORDS


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A calibration, and what a report says of it.

    ``tried`` were decoded on the calibration split; ``points`` (all scores), ``rows`` (the best of
    each kind), ``chosen`` and ``exact`` (the exact chain at the chosen K) are of the report split.
    """

    calibration: Calibration
    goal: Goal
    score: LearnedScore
    costs: RoundCosts
    tried: Sequence[Trial]
    points: Sequence[Point]
    rows: Sequence[Row]
    chosen: Trial
    exact: Trial
    num_clips: int
    num_report_clips: int

    def save(self, path: Path) -> None:
        """Write the calibration and its lexicon."""
        save_calibration(path, self.calibration, self.score.lexicon)


def calibrate(
    pair: Pair,
    goal: Goal,
    requests: Sequence[CaptionRequest],
    report_requests: Sequence[CaptionRequest],
    report: Callable[[str], None],
) -> Outcome:
    """Choose on ``requests``, measure on ``report_requests``; ``report`` is told of progress.

    Raises ValueError if there are too few clips, and PromptTooLongError.
    """
    captions = target_captions(pair, requests, _CALIBRATION, report)
    counts = _count(pair, captions, report)
    extractors = _extractors(pair, goal, counts)
    top_n = default_anchors(pair.target.num_layers).top_n
    evidence = gather(pair, captions, top_n, _CALIBRATION, report)
    labels = evidence.labels(pair, extractors[goal.judged_by])
    score = learn_score(evidence, labels, counts.lexicon(), report)
    costs = measure_costs(pair.target, pair.draft, max(captions, key=_length))
    report(f"costs at batch 1: {costs}")
    made = partial(_calibration, pair, score, counts.visual_threshold())
    start = Setting(SpeculationMethod.SAFE, LONGEST_K, _anchors(pair, score.candidate))

    report_captions = target_captions(pair, report_requests, _REPORT, report)
    with tempfile.TemporaryDirectory(prefix="lvspec-calibration-") as folder:
        path = Path(folder) / "trial.json"
        save_calibration(path, made(start), score.lexicon)
        trials = Trials(pair, captions, extractors, costs, path)
        search = Search(trials.run, goal.judged_by, goal.min_facts_kept, report)
        best = choose(search, start, score.lambdas, costs.speed_up).setting
        report(f"chosen: {best}")
        unseen = Trials(pair, report_captions, extractors, costs, path)
        chosen = unseen.run(best)
        exact = unseen.run(replace(best, method=SpeculationMethod.EXACT, confidence_threshold=0.0))

    shown = gather(pair, report_captions, top_n, _REPORT, report)
    truth = SampleTruth(pair.target.decode_text) if goal.in_sample_world else None
    told = shown.labels(pair, extractors[goal.judged_by], truth)
    every = score.scores(shown)
    return Outcome(
        calibration=made(
            best,
            visual_words_kept=chosen.kept[VISUAL_WORDS].value,
            measured=_measured(goal, chosen, costs, len(report_captions)),
        ),
        goal=goal,
        score=score,
        costs=costs,
        tried=search.tried,
        points=points(every, told),
        rows=rows(shown.tokens, every, told, also=[score.candidate]),
        chosen=chosen,
        exact=exact,
        num_clips=len(captions),
        num_report_clips=len(report_captions),
    )


def _count(
    pair: Pair, captions: Sequence[TargetCaption], report: Callable[[str], None]
) -> LexiconCounts:
    reading = StepProgress(f"{_CALIBRATION}: lexicon", len(captions), report)
    return count_moved(pair.target, captions, NUM_OTHER_VIDEOS, reading.show)


def _extractors(pair: Pair, goal: Goal, counts: LexiconCounts) -> dict[str, FactExtractor]:
    """All that tells facts, by name."""
    words = VisualWords(
        pair.target.token_texts(), counts.lexicon().tolist(), counts.visual_threshold()
    )
    told: dict[str, FactExtractor] = {VISUAL_WORDS: words}
    return told | {SAMPLE_FACTS: true_facts} if goal.in_sample_world else told


def _length(caption: TargetCaption) -> int:
    return len(caption.token_ids)


def _anchors(pair: Pair, candidate: Candidate) -> AnchorSettings:
    """The candidate by the calibrated quantiles; what it does not have at its default."""
    anchors = default_anchors(pair.target.num_layers)
    chosen = {
        "score": candidate.kind,
        "layer": candidate.layer,
        "state": candidate.state,
        "top_n": candidate.top_n,
    }
    known = {name: value for name, value in chosen.items() if value is not None}
    return anchors.model_copy(update={**known, "quantile_scope": QuantileScope.CALIBRATED})


def _calibration(
    pair: Pair,
    score: LearnedScore,
    visual_threshold: float,
    setting: Setting,
    visual_words_kept: float = 0.0,
    measured: dict[str, object] | None = None,
) -> Calibration:
    return Calibration(
        pair=PairIdentity(
            target_revision=pair.target.revision,
            draft_revision=pair.draft.revision,
            vocab_size=pair.target.vocab_size,
        ),
        prompt_id=pair.prompt_id,
        method=setting.method,
        num_speculative_tokens=setting.num_speculative_tokens,
        confidence_threshold=setting.confidence_threshold,
        anchors=setting.anchors,
        score_quantiles=score.quantiles,
        context_mean=score.context.mean,
        context_scale=score.context.scale,
        visual_threshold=visual_threshold,
        visual_words_kept=visual_words_kept,
        measured=measured or {},
    )


def _measured(goal: Goal, chosen: Trial, costs: RoundCosts, num_clips: int) -> dict[str, object]:
    """For people who read the file: what the choice showed on the report split."""
    return {
        "report_clips": num_clips,
        "min_facts_kept": goal.min_facts_kept,
        "facts_kept": {
            name: [round(kept.value, 5), round(kept.low, 5), round(kept.high, 5)]
            for name, kept in chosen.kept.items()
        },
        "mean_accepted_length": round(chosen.mean_accepted_length, 3),
        "draft_ratio": round(costs.draft_ratio, 4),
        "verify_ratio": round(costs.verify_ratio(chosen.setting.num_speculative_tokens), 3),
    }

"""Learning a pair's anchor score from one split: lexicon, weights, candidate, and its ladder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.calibration.candidates import Candidate, Context, Scores
from pipeline.calibration.choice import ladder, score_quantiles
from pipeline.calibration.evaluation import (
    Labels,
    Point,
    all_scores,
    fitted_contexts,
    points,
)
from pipeline.calibration.evidence import Evidence
from pipeline.decoding.calibration import Lexicon
from pipeline.decoding.score_choice import CONTEXTUAL
from pipeline.speculation_config import AnchorScoreKind

_NEARLY_BEST = 0.005
_OF_LOGITS = (AnchorScoreKind.LEXICON, AnchorScoreKind.MARGIN, AnchorScoreKind.LEXICON_MARGIN)
_NO_CONTEXT = Context(0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class LearnedScore:
    """The chosen ``candidate`` among all ``points``, and what makes scores of other clips.

    ``lambdas`` are those of scope calibrated that stop known shares of the harmful mismatches.
    """

    lexicon: Lexicon
    contexts: Mapping[Candidate, Context]
    points: Sequence[Point]
    candidate: Candidate
    quantiles: tuple[float, ...]
    lambdas: Sequence[float]

    @property
    def context(self) -> Context:
        """How the candidate's contextual part is weighed; neutral where it has none."""
        return context_of(self.candidate, self.contexts)

    def scores(self, evidence: Evidence) -> dict[Candidate, Scores]:
        """Every score of another split's tokens."""
        return all_scores(evidence.tokens, self.lexicon, evidence.contextual, self.contexts)


def learn_score(
    evidence: Evidence, labels: Labels, lexicon: Lexicon, report: Callable[[str], None]
) -> LearnedScore:
    """Choose the score that tells harmful mismatches best; see ``cheapest_of_the_best``."""
    tokens, harmful = evidence.tokens, labels.harmful
    contexts = fitted_contexts(tokens, lexicon, evidence.contextual, harmful)
    every = all_scores(tokens, lexicon, evidence.contextual, contexts)
    ordered = points(every, labels)
    candidate = cheapest_of_the_best(ordered)
    aucs = {point.candidate: point.auc for point in ordered}
    report(
        f"anchor score: {candidate}, AUC {aucs[candidate]:.4f} among {len(harmful)} mismatches, "
        f"{harmful.sum()} of them harmful (the best, {ordered[0].candidate}: {ordered[0].auc:.4f})"
    )
    quantiles = score_quantiles(tokens.as_drafted(every[candidate]))
    lambdas = ladder(quantiles, every[candidate].mismatches[harmful])
    return LearnedScore(lexicon, contexts, ordered, candidate, quantiles, lambdas)


def cheapest_of_the_best(ordered: Sequence[Point]) -> Candidate:
    """The first of those within .005 of the best AUC that needs no layer of the target; else the
    best. ``ordered`` has the best first; where no AUC is known all are alike."""
    near = [point for point in ordered if not point.auc < ordered[0].auc - _NEARLY_BEST]
    of_logits = [point for point in near if point.candidate.kind in _OF_LOGITS]
    return (of_logits or near)[0].candidate


def context_of(candidate: Candidate, contexts: Mapping[Candidate, Context]) -> Context:
    """Of a combination: the weight of its contextual part."""
    kind = CONTEXTUAL.get(candidate.kind)
    if kind is None:
        return _NO_CONTEXT
    part = Candidate(kind, candidate.layer, candidate.state, candidate.top_n)
    return contexts[part]

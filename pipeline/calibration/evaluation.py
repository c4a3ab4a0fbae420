"""Every score on some clips: what it is worth for telling facts, and for judging mismatches.

Shapes: K tokens of the captions, N mismatches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.calibration.candidates import (
    Candidate,
    CaptionTokens,
    Context,
    Scores,
    combined_scores,
    fitted_context,
    lexicon_scores,
)
from pipeline.calibration.separation import Separation, auc, separation
from pipeline.decoding.calibration import Lexicon
from pipeline.decoding.score_choice import COMBINED
from pipeline.speculation_config import AnchorScoreKind

Bools = npt.NDArray[np.bool_]

HARMFUL = "harmful"
FACTS = "facts"
ON_A_FACT = "on a fact"
UNAMBIGUOUS = "harmful, unambiguous"
AMBIGUOUS = "harmful, ambiguous"
ORACLE = "word oracle"
_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What is true of the tokens. ``harmful`` [N]: facts change if the mismatch passes.

    Where the truth is known: ``facts`` [K], the token is on a fact; ``on_a_fact`` [N], it or the
    drafted one is; ``ambiguous`` [N], one of them is a word that need not state a fact.
    """

    harmful: Bools
    facts: Bools | None = None
    on_a_fact: Bools | None = None
    ambiguous: Bools | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A score and how well it does, by the name of the question. No candidate: a control."""

    name: str
    candidate: Candidate | None
    figures: Mapping[str, Separation]


@dataclass(frozen=True, slots=True)
class Point:
    """A score among many: its AUC for harmful mismatches, and for facts where they are known."""

    candidate: Candidate
    auc: float
    facts_auc: float | None


def fitted_contexts(
    tokens: CaptionTokens,
    lexicon: Lexicon,
    contextual: Mapping[Candidate, Scores],
    harmful: Bools,
) -> dict[Candidate, Context]:
    """How each contextual score is added to the lexicon, by the calibration split."""
    prior = lexicon_scores(tokens, lexicon)
    return {
        candidate: fitted_context(tokens, prior, scores, harmful)
        for candidate, scores in contextual.items()
        if candidate.kind in COMBINED
    }


def all_scores(
    tokens: CaptionTokens,
    lexicon: Lexicon,
    contextual: Mapping[Candidate, Scores],
    contexts: Mapping[Candidate, Context],
) -> dict[Candidate, Scores]:
    """The lexicon, every contextual score, their combinations, and chance."""
    prior = lexicon_scores(tokens, lexicon)
    every = {Candidate(AnchorScoreKind.LEXICON): prior, **contextual}
    for candidate, context in contexts.items():
        both = replace(candidate, kind=COMBINED[candidate.kind])
        every[both] = combined_scores(prior, contextual[candidate], context)
    every[Candidate(AnchorScoreKind.RANDOM)] = _random(tokens)
    return every


def points(every: Mapping[Candidate, Scores], labels: Labels) -> list[Point]:
    """All scores, the best among mismatches first; random and entropy are controls, left out."""
    controls = (AnchorScoreKind.RANDOM, AnchorScoreKind.ENTROPY)
    found = [
        Point(
            candidate,
            auc(scores.mismatches, labels.harmful),
            None if labels.facts is None else auc(scores.captions, labels.facts),
        )
        for candidate, scores in every.items()
        if candidate.kind not in controls
    ]
    return sorted(found, key=lambda point: -np.nan_to_num(point.auc))


def rows(
    tokens: CaptionTokens,
    every: Mapping[Candidate, Scores],
    labels: Labels,
    also: Sequence[Candidate] = (),
) -> list[Row]:
    """With intervals: the best of each kind, those of ``also``, and the controls."""
    best: dict[AnchorScoreKind, Candidate] = {}
    for point in points(every, labels):
        best.setdefault(point.candidate.kind, point.candidate)
    chosen = dict.fromkeys([*best.values(), *(c for c in also if c in every)])
    chosen |= dict.fromkeys(
        c for c in every if c.kind in (AnchorScoreKind.RANDOM, AnchorScoreKind.ENTROPY)
    )
    found = [Row(str(c), c, _figures(tokens, every[c], labels)) for c in chosen]
    if labels.on_a_fact is not None and labels.facts is not None:
        oracle = Scores(labels.facts.astype(float), labels.on_a_fact.astype(float))
        found.append(Row(ORACLE, None, _figures(tokens, oracle, labels)))
    return found


def _random(tokens: CaptionTokens) -> Scores:
    rng = np.random.default_rng(_SEED)
    return Scores(rng.random(len(tokens.clips)), rng.random(len(tokens.mismatches)))


def _figures(tokens: CaptionTokens, scores: Scores, labels: Labels) -> dict[str, Separation]:
    clips = tokens.mismatch_clips
    figures: dict[str, Separation] = {}
    if labels.facts is not None:
        figures[FACTS] = separation(scores.captions, labels.facts, tokens.clips)
    if not len(clips):
        return figures  # the draft always agrees
    figures[HARMFUL] = separation(scores.mismatches, labels.harmful, clips)
    if labels.on_a_fact is not None:
        figures[ON_A_FACT] = separation(scores.mismatches, labels.on_a_fact, clips)
    if labels.ambiguous is not None:
        parts = {UNAMBIGUOUS: ~labels.ambiguous, AMBIGUOUS: labels.ambiguous}
        for name, part in parts.items():
            if part.any():
                figures[name] = separation(
                    scores.mismatches[part], labels.harmful[part], clips[part]
                )
    return figures

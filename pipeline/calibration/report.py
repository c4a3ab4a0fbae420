"""The report of a calibration, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.calibration.calibrator import Outcome
from pipeline.calibration.candidates import Candidate
from pipeline.calibration.evaluation import (
    AMBIGUOUS,
    FACTS,
    HARMFUL,
    ON_A_FACT,
    ORACLE,
    UNAMBIGUOUS,
    Row,
)
from pipeline.calibration.separation import Separation
from pipeline.calibration.trials import Trial
from pipeline.report.markdown import table
from pipeline.speculation_config import AnchorScoreKind, AnchorState
from pipeline.statistics import Estimate

_SHOWN_LAYERS = (AnchorScoreKind.COSINE, AnchorScoreKind.ATTENTION)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What was run, where and on what."""

    date: str
    commit: str
    hardware: str
    command: str
    models: str
    input_uri: str


def markdown(outcome: Outcome, provenance: Provenance) -> str:
    """The whole report."""
    chosen = outcome.chosen
    cost = outcome.costs
    k = chosen.setting.num_speculative_tokens
    parts = [
        f"# Calibration, {provenance.date}",
        f"`{provenance.command}` at {provenance.commit}, on {provenance.hardware}. "
        f"{provenance.models}; clips of {provenance.input_uri}.",
        f"Chosen on {outcome.num_clips} clips, measured on {outcome.num_report_clips} others. "
        f"Wanted: at least {outcome.goal.min_facts_kept:.1%} of the target's facts, by "
        f'{outcome.goal.judged_by}. Intervals are 95 %, bootstrap over clips. "Facts kept" is the '
        "F1 of a caption's facts against those of the target's own caption of the same clip; the "
        "mean accepted length leaves the bonus token out.",
        "## The choice",
        f"**{chosen.setting}**",
        f"Measured costs at batch 1: r = {cost.draft_ratio:.3f}, "
        f"v({k}) = {cost.verify_ratio(k):.2f}, "
        f"the target's plain step {1000 * cost.verify_s[0]:.2f} ms.",
        "On the report split, beside the exact chain at the same K:",
        _trials_table([chosen, outcome.exact]),
        "## Scores, among mismatches",
        "A mismatch is *harmful* if the caption that the target goes on to from the drafted token "
        "states other facts. AUC: the chance that a harmful one scores above a harmless one. "
        "Flagged: the share of harmless ones that are stopped by a threshold that stops 99 % "
        "(95 %) of the harmful ones. Report split; of each kind the layer and state that are best "
        "there, which flatters them, but not the chosen one, which was fixed before.",
        _rows_table(outcome.rows, HARMFUL),
    ]
    if any(FACTS in row.figures for row in outcome.rows):
        parts += [
            "## Scores, where the truth is known",
            f"Columns: AUC for words of facts among all words of the target's captions; AUC for "
            f"mismatches that touch a fact; and for harmful mismatches at words that always state "
            f'a fact or never do, and at ambiguous ones ("right", "light", "one") apart. '
            f"The {ORACLE} knows which words state facts where they stand, and nothing of "
            "what follows.",
            _truth_table(outcome.rows),
            f"By layer and state, {FACTS} among all words:",
            _layer_table(
                {p.candidate: p.facts_auc for p in outcome.points if p.facts_auc is not None}
            ),
        ]
    parts += [
        "## By layer and state",
        "AUC for harmful mismatches, report split.",
        _layer_table({point.candidate: point.auc for point in outcome.points}),
        "## Settings tried",
        "Calibration split; speed-up by the cost model from the measured costs.",
        _trials_table(sorted(outcome.tried, key=lambda trial: -trial.speed_up)),
    ]
    return "\n\n".join(parts) + "\n"


def _rows_table(rows: Sequence[Row], name: str) -> str:
    return table(
        ["score", "AUC", "harmless flagged at 99 %", "at 95 %", "harmful", "harmless"],
        [[row.name, *_cells(row.figures[name])] for row in rows if name in row.figures],
    )


def _cells(figure: Separation) -> list[str]:
    return [
        _known(figure.auc, ".3f"),
        _known(figure.flagged, ".1%"),
        _known(figure.flagged_95, ".1%"),
        str(figure.num_positive),
        str(figure.num_negative),
    ]


def _known(figure: Estimate | float, spec: str) -> str:
    """What is not a number where one kind of tokens is missing."""
    value = figure.value if isinstance(figure, Estimate) else figure
    return "-" if math.isnan(value) else f"{figure:{spec}}"


def _truth_table(rows: Sequence[Row]) -> str:
    names = [FACTS, ON_A_FACT, UNAMBIGUOUS, AMBIGUOUS]
    return table(
        ["score", *names],
        [
            [
                row.name,
                *(
                    _known(row.figures[name].auc, ".3f") if name in row.figures else "-"
                    for name in names
                ),
            ]
            for row in rows
        ],
    )


def _layer_table(aucs: Mapping[Candidate, float]) -> str:
    """Cosine and attention: a row for each layer, a column for each state."""
    columns = [(kind, state) for kind in _SHOWN_LAYERS for state in AnchorState]
    found = {(c.kind, c.state, c.layer): auc for c, auc in aucs.items()}
    layers = sorted({c.layer for c in aucs if c.kind in _SHOWN_LAYERS and c.layer is not None})
    return table(
        ["layer", *(f"{kind}, {state}" for kind, state in columns)],
        [
            [
                str(layer),
                *(_known(found.get((*column, layer), math.nan), ".3f") for column in columns),
            ]
            for layer in layers
        ],
    )


def _trials_table(trials: Sequence[Trial]) -> str:
    names = list(trials[0].kept)
    return table(
        [
            "setting",
            "speed-up",
            "mean accepted length",
            *(f"kept: {n}" for n in names),
            "same text",
        ],
        [
            [
                str(trial.setting),
                f"{trial.speed_up:.2f}",
                f"{trial.mean_accepted_length:.2f}",
                *(f"{trial.kept[name]:.2%}" for name in names),
                f"{trial.same_text:.1%}",
            ]
            for trial in trials
        ],
    )

"""From raw results to figures with intervals: each method against plain decoding, clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from pipeline.benchmark.methods import PLAIN
from pipeline.benchmark.runs import ClipRun, MethodRuns, PartRuns
from pipeline.benchmark.text_likeness import Likeness
from pipeline.sample_world.facts import Facts, caption_facts, facts_f1, facts_right
from pipeline.statistics import Estimate, bootstrap, bootstrap_mean, speed_up


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Shares (0 to 1) of all wall-clock time; ``other`` is the engine's book-keeping.

    Peers are known by prefill and the rest alone.
    """

    prefill: float
    draft: float
    verify: float
    scoring: float
    other: float


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method at one batch size, against plain decoding of the same clips in the same turns.

    ``speed_up`` is of output tokens/s while decoding; ``end_to_end`` counts both prefills and all
    else; ``clips_ratio`` is of clips/min end to end, which a shorter caption raises and tokens/s
    does not. ``mean_accepted_length`` leaves the bonus token out, ``tokens_per_step`` counts every
    token that a target step gave. ``facts_kept`` is the F1 of the caption's facts against those of
    the plain caption, ``facts_right`` the share of the video's facts stated rightly.
    ``disagreement`` is the share of tokens that are not the target's own choice, ``scoring_share``
    that of decoding time. Counts of accepted tokens are None for peers, which don't tell.
    """

    method: str
    batch: int
    k: str
    num_clips: int
    speed_up: Estimate
    end_to_end: Estimate
    clips_ratio: Estimate
    tokens_per_s: float
    clips_per_min: float
    mean_accepted_length: float | None
    tokens_per_step: float | None
    facts_kept: Estimate
    facts_right: Estimate
    same_text: float
    length_ratio: float
    disagreement: float | None
    chrf: float | None
    time: TimeSplit
    scoring_share: float
    accepted_histogram: tuple[int, ...]


def figures_of(part: PartRuns, likeness: Likeness | None = None) -> list[MethodFigures]:
    """Of every method that ran. Raises KeyError if plain decoding was not among them."""
    methods = {m.method: m for m in part.methods}
    plain = {run.clip: run for run in methods[PLAIN].runs}
    return [_figures(m, part, plain, likeness) for m in part.methods if m.runs]


def _figures(
    method: MethodRuns, part: PartRuns, plain_of: dict[int, ClipRun], likeness: Likeness | None
) -> MethodFigures:
    ours = method.runs
    plain = [plain_of[run.clip] for run in ours]
    tokens = sum(run.output_tokens for run in ours)
    wall_s = sum(run.wall_s for run in ours)
    decode_s = sum(run.decode_s for run in ours)
    steps = sum(run.target_steps for run in ours)
    accepted = sum(run.accepted_tokens for run in ours)
    pairs = list(zip(ours, plain))
    return MethodFigures(
        method=method.method,
        batch=part.batch,
        k=_k(method, steps),
        num_clips=len(ours),
        speed_up=bootstrap(
            [(a.output_tokens, a.decode_s, b.output_tokens, b.decode_s) for a, b in pairs], speed_up
        ),
        end_to_end=bootstrap(
            [(a.output_tokens, a.wall_s, b.output_tokens, b.wall_s) for a, b in pairs], speed_up
        ),
        clips_ratio=bootstrap([(1, a.wall_s, 1, b.wall_s) for a, b in pairs], speed_up),
        tokens_per_s=tokens / decode_s if decode_s else 0.0,
        clips_per_min=60 * len(ours) / wall_s if wall_s else 0.0,
        mean_accepted_length=accepted / steps if steps else None,
        tokens_per_step=(tokens - len(ours)) / steps if steps else None,
        facts_kept=bootstrap_mean([_kept(a.text, b.text) for a, b in pairs]),
        facts_right=bootstrap_mean([_right(a.text, part.truths[a.clip]) for a in ours]),
        same_text=float(np.mean([a.text == b.text for a, b in pairs])),
        length_ratio=tokens / sum(run.output_tokens for run in plain),
        disagreement=sum(run.loose_tokens for run in ours) / tokens if steps else None,
        chrf=_mean_likeness(pairs, likeness),
        time=_time_split(ours, wall_s),
        scoring_share=sum(run.scoring_s for run in ours) / decode_s if decode_s else 0.0,
        accepted_histogram=_added_up([run.accepted_histogram for run in ours]),
    )


def _k(method: MethodRuns, steps: int) -> str:
    if method.num_speculative_tokens is not None:
        return str(method.num_speculative_tokens)
    drafted = sum(run.drafted_tokens for run in method.runs)
    return f"{drafted / steps:.1f} (chosen)" if steps and drafted else "-"


def _kept(caption: str, plain: str) -> float:
    return facts_f1(caption_facts(caption), caption_facts(plain))


def _right(caption: str, truth: Facts) -> float:
    return facts_right(caption_facts(caption), truth)


def _mean_likeness(
    pairs: Sequence[tuple[ClipRun, ClipRun]], likeness: Likeness | None
) -> float | None:
    if likeness is None:
        return None
    return float(np.mean([likeness(ours.text, plain.text) for ours, plain in pairs]))


def _time_split(runs: Sequence[ClipRun], wall_s: float) -> TimeSplit:
    def share(seconds: float) -> float:
        return seconds / wall_s if wall_s else 0.0

    prefill = share(sum(run.prefill_s for run in runs))
    draft = share(sum(run.draft_s for run in runs))
    verify = share(sum(run.verify_s for run in runs))
    scoring = share(sum(run.scoring_s for run in runs))
    return TimeSplit(
        prefill, draft, verify, scoring, other=max(0.0, 1 - prefill - draft - verify - scoring)
    )


def _added_up(histograms: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip_longest(*histograms, fillvalue=0))

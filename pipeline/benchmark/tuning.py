"""Each method's own best K, found on clips that are not measured afterwards.

A K that is good for one method handicaps another (docs/method.md, section 5), so every method is
reported at its own, for each batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.contestants import Contestant
from pipeline.benchmark.interleaved import Entry, decode_in_turn
from pipeline.benchmark.runs import ClipRun

CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24)
_FAR_APART = (2, 5, 10)


def tokens_per_s(runs: Sequence[ClipRun]) -> float:
    """Of decoding alone, prefills left out."""
    return sum(run.output_tokens for run in runs) / sum(run.decode_s for run in runs)


def best_of(rates: dict[int, float]) -> int:
    """The K of the highest rate; of equals the smallest."""
    return max(sorted(rates), key=rates.__getitem__)


def tune(
    contestant_at: Callable[[int], Contestant],
    clips: Sequence[BenchmarkClip],
    warm_up: Sequence[BenchmarkClip],
    batch: int,
    start: int,
    label: str,
    print_line: Callable[[str], None],
) -> dict[int, float]:
    """Tokens/s by K: ``start`` and some far apart first, then uphill among CANDIDATES.

    The rate has one peak in K up to noise, so the walk ends where both neighbours are known. A
    draft that stops by itself has a flat one: hence the ones far apart.
    Raises ValueError or NotImplementedError if the method can't run.
    """
    rates: dict[int, float] = {}
    best = min(CANDIDATES, key=lambda k: abs(k - start))
    wanted = sorted({best, *_FAR_APART})
    while missing := [k for k in wanted if k not in rates]:
        entries = {str(k): Entry(contestant_at(k)) for k in missing}
        outcome = decode_in_turn(entries, clips, warm_up, batch, label, lambda line: None)
        if outcome.refused:
            raise ValueError(next(iter(outcome.refused.values())))
        rates |= {int(name): tokens_per_s(runs) for name, runs in outcome.runs.items()}
        wanted = _with_neighbours(best_of(rates))
    best = best_of(rates)
    shown = ", ".join(f"{k}: {rate:.0f}" for k, rate in sorted(rates.items()))
    print_line(f"{label}: K {best} (tokens/s by K: {shown})")
    return rates


def _with_neighbours(k: int) -> list[int]:
    place = CANDIDATES.index(k)
    return list(CANDIDATES[max(0, place - 1) : place + 2])

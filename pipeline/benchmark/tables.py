"""The benchmark's Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.benchmark.figures import MethodFigures
from pipeline.benchmark.methods import PLAIN
from pipeline.benchmark.series import Line, crossover
from pipeline.report.markdown import table


def speed_table(figures: Sequence[MethodFigures]) -> str:
    """Speed of every method and batch."""
    return table(
        ["batch", "method", "K", "decode speed-up", "end to end", "clips/min ratio", "tokens/s",
         "clips/min", "mean accepted length", "tokens per target step", "n"],
        [
            [str(f.batch), f.method, f.k, f"{f.speed_up:.2f}", f"{f.end_to_end:.2f}",
             f"{f.clips_ratio:.2f}", f"{f.tokens_per_s:.0f}", f"{f.clips_per_min:.0f}",
             number(f.mean_accepted_length), number(f.tokens_per_step), str(f.num_clips)]
            for f in figures
        ],
    )  # fmt: skip


def fidelity_table(figures: Sequence[MethodFigures]) -> str:
    """What the captions of every method and batch say."""
    return table(
        ["batch", "method", "K", "facts kept", "facts right", "same text", "length ratio",
         "not the target's choice", "chrF", "n"],
        [
            [str(f.batch), f.method, f.k, f"{f.facts_kept:.2%}", f"{f.facts_right:.2%}",
             f"{f.same_text:.1%}", f"{f.length_ratio:.3f}", percent(f.disagreement),
             number(f.chrf, ".1f"), str(f.num_clips)]
            for f in figures
        ],
    )  # fmt: skip


def time_table(figures: Sequence[MethodFigures]) -> str:
    """Where the wall clock goes, for methods that tell."""
    return table(
        ["batch", "method", "prefill", "draft", "verify", "scoring", "book-keeping",
         "scoring / decoding"],
        [
            [str(f.batch), f.method, *(f"{share:.1%}" for share in _shares(f)),
             f"{f.scoring_share:.2%}"]
            for f in figures
            if f.tokens_per_step is not None
        ],
    )  # fmt: skip


def _shares(figures: MethodFigures) -> tuple[float, ...]:
    time = figures.time
    return (time.prefill, time.draft, time.verify, time.scoring, time.other)


def sweep_table(figures: Sequence[MethodFigures]) -> str:
    """Speed and fidelity side by side, for ablations and sweeps."""
    return table(
        ["method", "K", "decode speed-up", "end to end", "mean accepted length", "facts kept",
         "facts right", "same text", "scoring / decoding", "n"],
        [
            [f.method, f.k, f"{f.speed_up:.2f}", f"{f.end_to_end:.2f}",
             number(f.mean_accepted_length), f"{f.facts_kept:.2%}", f"{f.facts_right:.2%}",
             f"{f.same_text:.1%}", f"{f.scoring_share:.2%}", str(f.num_clips)]
            for f in figures
        ],
    )  # fmt: skip


def in_flight_table(figures: Sequence[MethodFigures]) -> str:
    """Clips per minute, end to end, at each batch size against batch 1."""
    batches = sorted({f.batch for f in figures})
    rates = {(f.method, f.batch): f.clips_per_min for f in figures}
    rows = []
    for method in dict.fromkeys(f.method for f in figures):
        alone = rates.get((method, batches[0]))
        if alone is None:
            continue
        cells = [
            f"{rates[method, batch]:.0f} ({rates[method, batch] / alone:.2f}x)"
            if (method, batch) in rates
            else "-"
            for batch in batches
        ]
        rows.append([method, *cells])
    return table(["method", *(f"batch {batch}" for batch in batches)], rows)


def crossover_table(lines: Sequence[Line]) -> str:
    """Where each curve over batch size falls below plain decoding."""
    rows = []
    for line in lines:
        crossed = crossover(line)
        largest = line.points[-1].x
        where = f"none up to {largest:g}" if crossed is None else f"{crossed:.1f}"
        rows.append([line.name, where, f"{line.points[-1].y:.2f} at {largest:g}"])
    return table(["method", "crossover (batch size)", "speed-up at the largest batch"], rows)


def tuning_table(tuned: Mapping[int, Mapping[str, Mapping[int, float]]]) -> str:
    """Own best K by method and batch, with the rates that it was chosen by."""
    batches = sorted(tuned)
    methods = dict.fromkeys(method for rates in tuned.values() for method in rates)
    rows = []
    for method in methods:
        cells = []
        for batch in batches:
            rates = tuned[batch].get(method, {})
            best = max(rates, key=rates.__getitem__, default=None)
            shown = ", ".join(f"{k}: {rate:.0f}" for k, rate in sorted(rates.items()))
            cells.append("-" if best is None else f"**{best}** ({shown})")
        rows.append([method, *cells])
    return table(["method", *(f"batch {batch}" for batch in batches)], rows)


def terminal_table(figures: Sequence[MethodFigures]) -> str:
    """The main figures, narrow enough for a terminal."""
    lines = [
        f"{'batch':>5} {'method':26} {'K':>13} {'decode':>7} {'e2e':>6} {'tok/s':>6} "
        f"{'clips/min':>9} {'accepted':>8} {'facts kept':>24} {'same':>6} {'n':>4}"
    ]
    for f in figures:
        lines.append(
            f"{f.batch:>5} {f.method:26} {f.k:>13} {f.speed_up.value:>6.2f}x "
            f"{f.end_to_end.value:>5.2f}x {f.tokens_per_s:>6.0f} {f.clips_per_min:>9.0f} "
            f"{number(f.mean_accepted_length):>8} {f'{f.facts_kept:.2%}':>24} "
            f"{f.same_text:>6.1%} {f.num_clips:>4}"
        )
        if f.method == PLAIN:
            lines.insert(len(lines) - 1, "-" * len(lines[0]))
    return "\n".join(lines)


def number(value: float | None, spec: str = ".2f") -> str:
    """A number that may be unknown."""
    return "-" if value is None else f"{value:{spec}}"


def percent(value: float | None) -> str:
    """A share that may be unknown."""
    return "-" if value is None else f"{value:.1%}"

"""The dated report of the gang benchmark, and its figures for summary.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.gang_memory import ALLOWANCE_BYTES, MemoryUse
from pipeline.benchmark.gang_overhead import COMPARE, DECODE, LAYERS, LINK, LOGITS
from pipeline.benchmark.gang_results import (
    FROM_PRETRAINED,
    GangResults,
    GangStart,
    MemoryPart,
    Overhead,
    Recovery,
    RecoveryPart,
)
from pipeline.dataset.run_folder import versions
from pipeline.report.markdown import table
from pipeline.statistics import Estimate, Samples, bootstrap

DEFINITIONS = """\
- *Memory*: each rank is a process of its own that loads its part of one checkpoint in bfloat16 on
  CPU. *Peak* is the kernel's high-water mark of the process (VmHWM, reset just before loading) less
  what it had before; pages of mapped files count. *Holds*: the weights of its part by their sizes.
  *Bound*: that, the largest tensor and 1 GiB. `from_pretrained` maps the files, so its weights are
  read once here, as using them does.
- *Overhead*: gang and process caption the same clips in turns, in float32, and the ratio is of
  decode time per output token (totals over totals); *typical* is the median of the turns' own
  ratios, which a pause of the machine does not move. A turn is a batch of clips; brackets are 95 %
  bootstrap intervals over turns. A gang of one rank reads the very weights of the other side: what
  is measured is the code between. *Same text* counts captions that are equal.
- *Two ranks* on one machine share its cores and its memory's bandwidth: this is what a rank more
  costs here, not what GPUs gain. Times are rank 0's, while it decodes; waiting for the other rank
  is part of the sums.
- *Start*: from asking for a gang to its being ready. *Processes*: until all ranks' answer.
  *Imports*, *meeting*, *loading* (rank 0: and the draft) and *warm-up* are rank 0's own.
- *Recovery*: seconds since a fault in a call under way: until the loss was known, until another
  gang was ready, and until the interrupted call had all its captions. A stopped process is given
  ten heartbeats.
"""
_MIB = 1 << 20
_GANG_KEY = "gang"


@dataclass(frozen=True, slots=True)
class OverheadFigures:
    """``ratio`` and ``typical``: gang over process, decode time per output token, over turns."""

    overhead: Overhead
    ratio: Estimate
    typical: Estimate
    num_same: int

    @classmethod
    def of(cls, overhead: Overhead) -> OverheadFigures:
        """Raises ValueError if there are no clips."""
        pairs = list(zip(overhead.gang, overhead.in_process, strict=True))
        rows = np.array([(g.decode_s, g.output_tokens, p.decode_s, p.output_tokens)
                         for g, p in pairs])  # fmt: skip
        # Clips of one turn share what the machine did: they are one sample.
        turns = [rows[start : start + overhead.batch].sum(axis=0)
                 for start in range(0, len(rows), overhead.batch)]  # fmt: skip
        return cls(
            overhead,
            bootstrap(turns, time_ratio),
            bootstrap(turns, lambda each: float(np.median(_ratios(each)))),
            sum(g.text == p.text for g, p in pairs),
        )


def time_ratio(rows: Samples) -> float:
    """Of rows of (seconds, tokens, baseline seconds, baseline tokens): time per token, totals."""
    return float(_ratios(rows.sum(axis=0, keepdims=True))[0])


def _ratios(rows: Samples) -> Samples:
    return (rows[:, 0] / rows[:, 1]) / (rows[:, 2] / rows[:, 3])


def markdown(results: GangResults, date: str) -> str:
    """The whole report. Sections of parts that were not run are left out."""
    sections = [f"# Gangs, {date}", _settings(results), "## How to read this\n\n" + DEFINITIONS]
    if results.memory:
        sections.append("## Memory of loading\n\n" + memory_section(results.memory))
    if results.overhead:
        figures = [OverheadFigures.of(run) for run in results.overhead.runs]
        sections.append("## Decode time against one process\n\n" + overhead_table(figures))
        if several := [f for f in figures if f.overhead.times]:
            sections.append("## Where rank 0 of two spends its time\n\n" + split_table(several))
    if results.start:
        sections.append("## Start\n\nSeconds.\n\n" + start_table(results.start.starts))
    if results.recovery:
        sections.append("## Recovery\n\n" + recovery_section(results.recovery))
    return "\n\n".join(section.strip() for section in sections) + "\n"


def memory_section(part: MemoryPart) -> str:
    """What each process took, and whether it kept to the bound."""
    header = ["loaded by", "rank", "holds, MiB", "peak, MiB", "bound, MiB", "kept",
              "most anonymous", "most of files", "afterwards", "s"]  # fmt: skip
    rows = [
        [_loader(run.num_ranks), str(rank), *_memory_cells(use, run.num_ranks)]
        for run in part.runs
        for rank, use in enumerate(run.uses)
    ]
    return (
        f"A checkpoint of {part.num_bytes / 1e9:.2f} GB; all columns but the bound above what the "
        f"process had before, which was {_before(part)} MiB.\n\n{table(header, rows)}"
    )


def _loader(num_ranks: int) -> str:
    return "from_pretrained" if num_ranks == FROM_PRETRAINED else f"{num_ranks} ranks"


def _before(part: MemoryPart) -> str:
    totals = [use.before.total / _MIB for run in part.runs for use in run.uses]
    return f"{min(totals):.0f} to {max(totals):.0f}"


def _memory_cells(use: MemoryUse, num_ranks: int) -> list[str]:
    is_gang = num_ranks != FROM_PRETRAINED
    sizes = [use.held, use.growth, use.bound() if is_gang else None]
    cells = ["-" if size is None else f"{size / _MIB:.0f}" for size in sizes]
    kept = ("yes" if use.is_within() else "NO") if is_gang else "-"
    others = (
        use.most_anonymous - use.before.anonymous,
        use.most_file - use.before.file,
        use.after.total - use.before.total,
    )
    return [*cells, kept, *(f"{size / _MIB:.0f}" for size in others), f"{use.load_s:.1f}"]


def overhead_table(figures: Sequence[OverheadFigures]) -> str:
    """Ratios of decode time."""
    header = ["ranks", "method", "batch", "decode time, ratio", "typical", "process, ms/token",
              "gang, ms/token", "same text"]  # fmt: skip
    rows = []
    for f in figures:
        run = f.overhead
        per_token = [
            1e3 * sum(r.decode_s for r in side) / sum(r.output_tokens for r in side)
            for side in (run.in_process, run.gang)
        ]
        rows.append(
            [str(run.num_ranks), run.method, str(run.batch), f"{f.ratio:.3f}", f"{f.typical:.3f}",
             *(f"{ms:.2f}" for ms in per_token), f"{f.num_same} of {len(run.gang)}"]
        )  # fmt: skip
    return table(header, rows)


def split_table(figures: Sequence[OverheadFigures]) -> str:
    """Shares of rank 0's decode time, and microseconds a call."""
    parts = (LINK, LAYERS, LOGITS, COMPARE)
    header = ["method", "batch", *(f"{part} (us a call)" for part in parts), "rest"]
    rows = []
    for f in figures:
        run = f.overhead
        decode_s = sum(r.decode_s for r in run.gang)
        times = {time.what: time for time in run.times if time.phase == DECODE}
        cells, rest = [], 1.0
        for part in parts:
            time = times.get(part)
            if time is None:
                cells.append("-")
                continue
            rest -= time.seconds / decode_s
            per_call = 1e6 * time.seconds / time.calls
            cells.append(f"{time.seconds / decode_s:.1%} ({per_call:.0f} x {time.calls})")
        rows.append([run.method, str(run.batch), *cells, f"{rest:.1%}"])
    return table(header, rows)


def start_table(starts: Sequence[GangStart]) -> str:
    """Each start in its parts, s."""
    header = ["ranks", "placement", "processes", "imports", "meeting", "loading", "warm-up", "rest",
              "all"]  # fmt: skip
    rows = [
        [
            str(s.num_ranks),
            *(
                f"{seconds:.2f}"
                for seconds in (s.placement_s, s.processes_s, s.imports_s, s.meeting_s,
                                s.loading_s, s.warm_up_s, s.rest_s, s.total_s)
            ),
        ]
        for s in starts
    ]  # fmt: skip
    return table(header, rows)


def recovery_section(part: RecoveryPart) -> str:
    """Each fault, in the order in which they were made."""
    header = ["fault", "noticed, s", "rebuilt, s", "delivered, s", "same text", "what was said"]
    rows = [
        [r.fault, *(f"{s:.1f}" for s in (r.noticed_s, r.rebuilt_s, r.delivered_s)),
         f"{r.num_same} of {r.num_clips}", r.message]
        for r in part.recoveries
    ]  # fmt: skip
    return (
        f"Undisturbed the call takes {part.undisturbed_s:.1f} s; a heartbeat every "
        f"{part.heartbeat_s:g} s.\n\n{table(header, rows)}"
    )


def _settings(results: GangResults) -> str:
    named = ", ".join(f"{name} {v}" for name, v in versions().items() if v)
    lines = [f"- versions: {named}"]
    for name, s in results.settings.items():
        line = (
            f"- {name}: `{s.command}`, commit {s.commit}, {s.date}, {s.hardware}; load average "
            f"{s.load_before:.1f} before and {s.load_after:.1f} after"
        )
        lines.append(f"{line}; {s.note}" if s.note else line)
    return "\n".join(lines)


def write(results: GangResults, folder: Path) -> Path:
    """Write ``<date>-gang.md`` and the key ``gang`` of summary.json; returns the report.

    Raises ValueError if there are no results.
    """
    if not results.settings:
        raise ValueError("there are no results to report")
    folder.mkdir(parents=True, exist_ok=True)
    day = datetime.now(UTC).date().isoformat()
    path = folder / f"{day}-gang.md"
    path.write_text(markdown(results, day), encoding="utf-8")
    write_summary(folder / "summary.json", results)
    return path


def write_summary(path: Path, results: GangResults) -> None:
    """Set the key ``gang``; other keys stay as they are."""
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    summary[_GANG_KEY] = summary_of(results)
    path.write_text(json.dumps(summary, indent=2) + "\n")


def summary_of(results: GangResults) -> dict[str, Any]:
    """The figures of all parts that there are, by part."""
    parts: dict[str, Any] = {name: asdict(s) for name, s in results.settings.items()}
    if results.memory:
        parts["memory"]["allowance_bytes"] = ALLOWANCE_BYTES
        parts["memory"]["checkpoint_bytes"] = results.memory.num_bytes
        for run in results.memory.runs:
            parts["memory"][_loader(run.num_ranks)] = [
                {"held_bytes": use.held, "peak_bytes": use.growth, "load_s": use.load_s}
                | ({"within_bound": use.is_within()} if run.num_ranks else {})
                for use in run.uses
            ]
    if results.overhead:
        parts["overhead"]["runs"] = [
            {
                "ranks": f.overhead.num_ranks,
                "method": f.overhead.method,
                "batch": f.overhead.batch,
                "decode_time": asdict(f.ratio),
                "decode_time_typical": asdict(f.typical),
                "same_text": f.num_same / len(f.overhead.gang),
            }
            for f in map(OverheadFigures.of, results.overhead.runs)
        ]
    if results.start:
        parts["start"]["starts"] = [asdict(start) for start in results.start.starts]
    if results.recovery:
        parts["recovery"]["heartbeat_s"] = results.recovery.heartbeat_s
        parts["recovery"]["faults"] = _by_fault(results.recovery.recoveries)
    return parts


def _by_fault(recoveries: Iterable[Recovery]) -> dict[str, list[dict[str, float]]]:
    faults: dict[str, list[dict[str, float]]] = {}
    for r in recoveries:
        faults.setdefault(r.fault, []).append(
            {
                "noticed_s": r.noticed_s,
                "rebuilt_s": r.rebuilt_s,
                "delivered_s": r.delivered_s,
                "same_text": r.num_same / r.num_clips,
            }
        )
    return faults

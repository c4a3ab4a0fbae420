"""What the nightly report says of verification and of mutated videos."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.benchmark.nightly_results import MutationsPart, StepUse, VerifyPart
from pipeline.failure_kinds import kind_of
from pipeline.report.markdown import table

CHECK_DEFINITIONS = """\
- *Verifying, compacting*: of a synthetic data set of the real schema in a local folder, each step a
  process of its own; its peak is the resident memory of that process.
- *Mutated videos*: good small videos of many codecs, damaged by chance (bits, headers, cuts,
  splices, gaps, noise), through the whole job on one machine with real decode processes and a
  scripted model, without second attempts. *Longest wait*: between two outcomes."""


def verified(part: VerifyPart) -> str:
    """A row for each step."""
    rows = [_step(name, use, part.num_rows) for name, use in _steps(part).items()]
    header = ["step", "elapsed, s", "rows/s", "peak, MB"]
    size = f"{part.num_rows:,} captions and their failures, {part.num_bytes / 1e9:.2f} GB:"
    return f"{size}\n\n{table(header, rows)}"


def verified_json(part: VerifyPart) -> dict[str, Any]:
    """Figures for summary.json, beside the setting."""
    steps = {
        name: asdict(use) | {"rows_per_s": part.num_rows / use.elapsed_s}
        for name, use in _steps(part).items()
    }
    return {"num_rows": part.num_rows, "num_bytes": part.num_bytes, **steps}


def mutated(part: MutationsPart) -> str:
    """Outcomes by code, and failures by what was done to the file."""
    run = part.run
    whole = "whole" if not run.problems else f"not whole ({len(run.problems)} problems)"
    told = (
        f"{run.num_videos:,} videos, {run.num_rows:,} rows, the data set is {whole}; the longest "
        f"wait was {run.longest_wait_s:.1f} s, all of it took {run.elapsed_s:.0f} s."
    )
    by_count = sorted(run.failures_by_code.items(), key=lambda item: (-item[1], item[0]))
    codes = [["captioned", "", f"{run.num_captions}"]]
    codes += [[code, kind_of(code).value, f"{count}"] for code, count in by_count]
    kinds = [
        [name, f"{count}", f"{run.failed_by_mutation.get(name, 0)}"]
        for name, count in run.videos_by_mutation.items()
    ]
    return "\n\n".join(
        (
            told,
            table(["outcome", "kind", "videos"], codes),
            table(["mutation", "videos", "failed"], kinds),
        )
    )


def mutated_json(part: MutationsPart) -> dict[str, Any]:
    """Figures for summary.json, beside the setting."""
    run = part.run
    return asdict(run) | {"num_rows": run.num_rows, "is_whole": not run.problems}


def _steps(part: VerifyPart) -> dict[str, StepUse]:
    return {"verify": part.verify, "compact": part.compact}


def _step(name: str, use: StepUse, num_rows: int) -> list[str]:
    return [
        name,
        f"{use.elapsed_s:.1f}",
        f"{num_rows / use.elapsed_s:,.0f}",
        f"{use.peak_rss_bytes / 1e6:.0f}",
    ]

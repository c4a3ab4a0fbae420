"""A decoding benchmark as Markdown for people and as JSON for later parts of the project."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from pipeline.benchmark.decoding import MethodResult
from pipeline.dataset.run_folder import versions


def hardware() -> str:
    """Processor, number of cores and the GPUs that torch sees, as one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {_gpus()}"


def _gpus() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    counts = Counter(names)
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no GPU"


def table(results: Sequence[MethodResult]) -> str:
    """A Markdown table, one row for each method and batch size."""
    lines = [
        "| batch | method | speed-up, decode only | with prefill | tokens/s | clips/min "
        "| mean accepted length | same text | facts right |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.batch} | {r.method} | {r.speed_up:.2f} | {r.speed_up_with_prefill:.2f} "
        f"| {r.tokens_per_s:.0f} | {r.clips_per_min:.0f} | {r.mean_accepted_length:.2f} "
        f"| {r.same_text_share:.1%} | {r.facts_right:.2f} |"
        for r in results
    ]
    return "\n".join(lines)


def markdown(
    results: Sequence[MethodResult], *, day: date, command: str, setting: str, commit: str
) -> str:
    """The dated report: what was run, on what, and the table."""
    return f"""# Decoding methods on the reference pair, {day.isoformat()}

- command: `{command}`
- commit: {commit}
- hardware: {hardware()}
- versions: {", ".join(f"{name} {v}" for name, v in versions().items() if v)}
- setting: {setting}

{table(results)}

Every batch of clips was decoded by all methods in turn, starting with another one each time.
Speed-up is output tokens per second over plain decoding of the same batches; brackets are 95 %
bootstrap intervals over clips. Mean accepted length excludes the bonus token. Facts right is the
mean share of a clip's true facts that its caption states.
"""


def write_summary(path: Path, results: Sequence[MethodResult], *, day: date, commit: str) -> None:
    """Write the ``decoding`` key of summary.json; keys of other parts stay as they are."""
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    summary |= {"commit": commit, "date": day.isoformat(), "hardware": hardware()}
    summary["decoding"] = _by_method(results)
    path.write_text(json.dumps(summary, indent=2) + "\n")


def _by_method(results: Sequence[MethodResult]) -> Mapping[str, Mapping[str, Any]]:
    methods: dict[str, dict[str, Any]] = {}
    for r in results:
        methods.setdefault(r.method, {})[str(r.batch)] = {
            "speedup": r.speed_up.value,
            "speedup_low": r.speed_up.low,
            "speedup_high": r.speed_up.high,
            "tokens_per_s": r.tokens_per_s,
            "clips_per_min": r.clips_per_min,
            "mean_accepted_length": r.mean_accepted_length,
            "same_text": r.same_text_share,
            "facts_right": r.facts_right.value,
            "facts_right_low": r.facts_right.low,
            "facts_right_high": r.facts_right.high,
            "n": r.num_clips,
        }
    return methods

"""benchmarks/summary.json: the figures for later parts of the project, which add keys beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.benchmark.figures import MethodFigures
from pipeline.benchmark.runs import Setting


def write_summary(path: Path, figures: Sequence[MethodFigures], setting: Setting) -> None:
    """Write ``commit``, ``date``, ``hardware`` and ``decoding``; other keys stay as they are."""
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    summary |= {"commit": setting.commit, "date": setting.date, "hardware": setting.hardware}
    summary["decoding"] = _by_method(figures)
    path.write_text(json.dumps(summary, indent=2) + "\n")


def _by_method(figures: Sequence[MethodFigures]) -> Mapping[str, Mapping[str, Any]]:
    methods: dict[str, dict[str, Any]] = {}
    for f in figures:
        methods.setdefault(f.method, {})[str(f.batch)] = {
            "speedup": f.speed_up.value,
            "speedup_low": f.speed_up.low,
            "speedup_high": f.speed_up.high,
            "speedup_end_to_end": f.end_to_end.value,
            "speedup_clips_per_min": f.clips_ratio.value,
            "tokens_per_s": f.tokens_per_s,
            "clips_per_min": f.clips_per_min,
            "num_speculative_tokens": f.k,
            "mean_accepted_length": f.mean_accepted_length,
            "tokens_per_target_step": f.tokens_per_step,
            "facts_kept": f.facts_kept.value,
            "facts_kept_low": f.facts_kept.low,
            "facts_kept_high": f.facts_kept.high,
            "facts_right": f.facts_right.value,
            "facts_right_low": f.facts_right.low,
            "facts_right_high": f.facts_right.high,
            "same_text": f.same_text,
            "length_ratio": f.length_ratio,
            "disagreement": f.disagreement,
            "chrf": f.chrf,
            "scoring_share": f.scoring_share,
            "n": f.num_clips,
        }
    return methods

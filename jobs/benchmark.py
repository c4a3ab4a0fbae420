"""Measure every decoding method on held-out clips of the sample world: `make bench`.

Parts run in one process or in several; each leaves its raw results under --raw, and the report and
the `decoding` key of summary.json are made from all that lies there. Parts: tuning (own best K, on
other clips), main, exactness (float32), lengths (over K), ablations,
frontier, steps. No part: the report alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.benchmark import step, tables
from pipeline.benchmark.bench import Bench
from pipeline.benchmark.competition import Rates, best_ks
from pipeline.benchmark.figures import figures_of
from pipeline.benchmark.methods import LVSPEC, Calibrated, Method, main_methods
from pipeline.benchmark.pictures import draw
from pipeline.benchmark.report import Measured, Report
from pipeline.benchmark.runs import load_all, save
from pipeline.benchmark.summary import write_summary
from pipeline.benchmark.sweeps import (
    ablation_methods,
    exactness_methods,
    frontier_methods,
    length_methods,
)
from pipeline.benchmark.text_likeness import chrf
from pipeline.config import RunConfig
from pipeline.decoding.calibration import load_calibration
from pipeline.settings import load_run_config

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tuning", "main", "exactness", "lengths", "ablations", "frontier", "steps")
_EXACTNESS_K = 4
_EXACTNESS_BATCHES = (1, 8)

_print = partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many clips each part decodes: ``many`` at batch 1 and 8, ``few`` elsewhere."""

    many: int
    few: int
    tuning: int
    exactness: int

    def main(self, batch: int) -> int:
        """Of the main part, at least three turns of the batch."""
        return self.many if batch in (1, 8) else max(self.few, min(self.many, 6 * batch))

    def tuned(self, batch: int) -> int:
        """Of the tuning part: batches must be full for most of the time."""
        return max(self.tuning, 2 * batch)


FULL = Sizes(many=200, few=40, tuning=8, exactness=40)
QUICK = Sizes(many=8, few=4, tuning=3, exactness=4)


def main() -> None:
    """Run the parts, print the table, write the report."""
    arguments = _parse()
    sizes = QUICK if arguments.quick else FULL
    if arguments.clips is not None:
        sizes = replace(sizes, many=arguments.clips)
    if arguments.few_clips is not None:
        sizes = replace(sizes, few=arguments.few_clips)
    calibrated = _calibrated(arguments.calibration)
    run = Run(arguments, sizes, calibrated)
    for part in PARTS:
        if part in arguments.parts:
            getattr(run, part)()
    _report(arguments.raw, arguments.output, main_methods(calibrated))


class Run:
    """The parts of one command. Clips and pairs are made when they are first asked for."""

    def __init__(self, arguments: argparse.Namespace, sizes: Sizes, calibrated: Calibrated) -> None:
        self._arguments = arguments
        self._sizes = sizes
        self._calibrated = calibrated
        self._benches: dict[tuple[str, str, int], Bench] = {}

    def tuning(self) -> None:
        """Each method's own best K at each batch size; starts from that of the batch before."""
        tuned = _read_tuning(self._arguments.raw)
        bench = self._bench(seed=self._arguments.tuning_seed)
        starts: dict[str, int] = {}
        for batch in sorted(self._arguments.batch):
            if not (self._arguments.resume and batch in tuned):
                clips, warm_up = bench.clips(self._sizes.tuned(batch), batch)
                methods = main_methods(self._calibrated)
                tuned[batch] = bench.competition.tune(methods, clips, warm_up, batch, starts)
                _write_tuning(self._arguments.raw, tuned)
            starts = best_ks(tuned[batch])

    def main(self) -> None:
        """Every method at every batch size."""
        tuned = _read_tuning(self._arguments.raw)
        for batch in self._arguments.batch:
            clips, ks = self._sizes.main(batch), best_ks(tuned.get(batch, {}))
            self._part("main", main_methods(self._calibrated), batch, clips, ks)

    def exactness(self) -> None:
        """Lossless methods in float32."""
        methods = exactness_methods(_EXACTNESS_K)
        for batch in _EXACTNESS_BATCHES:
            self._part("exactness", methods, batch, self._sizes.exactness, {}, "float32")

    def lengths(self) -> None:
        """Accepted length and speed over K."""
        self._part("lengths", length_methods(self._calibrated), 1, self._sizes.many, {})

    def ablations(self) -> None:
        """lvspec with one thing changed each."""
        methods = ablation_methods(self._calibrated, self._lvspec_k())
        self._part("ablations", methods, 1, self._sizes.few, {})

    def frontier(self) -> None:
        """Facts kept against speed."""
        methods = frontier_methods(self._calibrated, self._lvspec_k())
        self._part("frontier", methods, 1, self._sizes.few, {})

    def steps(self) -> None:
        """What a decode step costs, in both dtypes."""
        measured = [self._bench(dtype=dtype).step_costs() for dtype in ("float32", "bfloat16")]
        path = self._arguments.raw / "steps.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.markdown(measured), encoding="utf-8")
        _print(f"wrote {path}")

    def _lvspec_k(self) -> int:
        tuned = _read_tuning(self._arguments.raw)
        return best_ks(tuned.get(1, {})).get(LVSPEC, self._calibrated.k)

    def _part(
        self,
        part: str,
        methods: Sequence[Method],
        batch: int,
        num_clips: int,
        tuned: dict[str, int],
        dtype: str | None = None,
    ) -> None:
        raw = self._arguments.raw
        if self._arguments.resume and (raw / f"{part}-batch{batch}.json").exists():
            _print(f"{part}, batch {batch}: already there")
            return
        bench = self._bench(dtype=dtype)
        clips, warm_up = bench.clips(num_clips, batch)
        runs = bench.competition.run(part, methods, clips, warm_up, batch, tuned)
        _print(f"wrote {save(raw, runs)}")

    def _opened(self, dtype: str, draft_dtype: str, seed: int) -> Bench:
        config = _config("unused", "unused", dtype, draft_dtype)
        return Bench(config, seed, self._calibrated.path, sys.argv[1:], _print)

    def _bench(self, seed: int | None = None, dtype: str | None = None) -> Bench:
        arguments = self._arguments
        key = (
            dtype or arguments.dtype,
            dtype or arguments.draft_dtype,
            arguments.seed if seed is None else seed,
        )
        if key not in self._benches:
            self._benches[key] = self._opened(*key)
        return self._benches[key]


def _config(input_uri: str, output_uri: str, dtype: str, draft_dtype: str) -> RunConfig:
    return load_run_config(
        ["--recipe", "reference", "--input", input_uri, "--output", output_uri,
         "--dtype", dtype, "--models.draft.dtype", draft_dtype]
    )  # fmt: skip


def _calibrated(path: str | None) -> Calibrated:
    """What the file chose; the recipe's own if none is named, method safe's defaults without."""
    path = path or _config("unused", "unused", "float32", "float32").speculation.calibration
    if path is None:
        _print("no calibration: lvspec runs at the documented defaults")
        return Calibrated()
    calibration, _ = load_calibration(Path(path))
    return Calibrated(
        path,
        calibration.method,
        calibration.anchors.quantile_scope,
        calibration.num_speculative_tokens,
    )


def _read_tuning(raw: Path) -> dict[int, Rates]:
    path = raw / "tuning.json"
    if not path.exists():
        return {}
    return {
        int(batch): {m: {int(k): rate for k, rate in by_k.items()} for m, by_k in rates.items()}
        for batch, rates in json.loads(path.read_text()).items()
    }


def _write_tuning(raw: Path, tuned: dict[int, Rates]) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "tuning.json").write_text(json.dumps(tuned, indent=1) + "\n")


def _report(raw: Path, output: Path, methods: Sequence[Method]) -> None:
    """Assemble the report, its plots and the summary from what lies in ``raw``."""
    likeness = chrf()
    measured = [Measured(part, figures_of(part, likeness)) for part in load_all(raw)]
    if not measured:
        _print(f"no results in {raw}")
        return
    output.mkdir(parents=True, exist_ok=True)
    day = datetime.now(UTC).date().isoformat()
    stem = f"{day}-decoding"
    report = Report(measured, _read_tuning(raw), methods, {}, _steps_table(raw))
    plots = draw(report, output, stem, _print)
    report = replace(report, plots=plots)
    (output / f"{stem}.md").write_text(report.markdown(day), encoding="utf-8")
    if figures := report.figures("main"):
        _print(tables.terminal_table(figures))
        write_summary(output / "summary.json", figures, report.setting())
    _print(f"wrote {output / stem}.md")


def _steps_table(raw: Path) -> str:
    """The table of step times, if they were measured (steps.md in ``raw``)."""
    path = raw / "steps.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=list(PARTS), help="what to run"
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="batch sizes"
    )
    parser.add_argument("--clips", type=int, help="main part, batch 1 and 8 (default 200)")
    parser.add_argument("--few-clips", type=int, help="other batches and parts (default 40)")
    parser.add_argument("--quick", action="store_true", help="a few clips each, to try it out")
    parser.add_argument("--resume", action="store_true", help="keep parts that have raw results")
    parser.add_argument("--seed", type=int, default=1, help="corpus seed (the demo takes 0)")
    parser.add_argument("--tuning-seed", type=int, default=3, help="corpus seed of the tuning part")
    parser.add_argument("--calibration", help="calibration file (default: the recipe's)")
    parser.add_argument("--dtype", default="bfloat16", help="of the target")
    parser.add_argument("--draft-dtype", default="float32", help="of the draft")
    parser.add_argument("--raw", type=Path, default=ROOT / "benchmarks" / "raw", help="raw results")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="report folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()

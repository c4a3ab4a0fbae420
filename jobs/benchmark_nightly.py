"""Measure what a night costs beside captioning: `make bench-nightly`.

Parts: listing (a million objects over HTTP, planned and committed by a captioner without a model),
rerun (how long an unchanged bucket takes to be found so), verify (a large data set proved and
compacted) and mutations (damaged videos through the whole job). Each leaves its raw results under
--raw; the report and the `nightly` key of summary.json are made from all that lies there. No part:
the report alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from pipeline.benchmark import (
    nightly_driver,
    nightly_report,
    nightly_server,
    nightly_verify,
)
from pipeline.benchmark.nightly_results import (
    DriverRun,
    IdsUse,
    ListingPart,
    ListTime,
    MutationRun,
    MutationsPart,
    NightlyPart,
    RerunPart,
    StepUse,
    VerifyPart,
    load_results,
    save_part,
)
from pipeline.benchmark.raw_parts import PartSetting

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("listing", "rerun", "verify", "mutations")
DELAYED_OBJECTS = 100_000
DELAY_S = 0.1
MUTATIONS_MODULE = "pipeline.benchmark.nightly_mutations"  # torch: this process needs none
NUM_IDS = (1_000_000, 10_000_000)

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIABENCHONLY",
    "AWS_SECRET_ACCESS_KEY": "not-a-real-secret",
    "OMP_NUM_THREADS": "1",
}
_print = partial(print, flush=True)
Result = TypeVar("Result", ListTime, IdsUse, DriverRun)


def main() -> None:
    """Run the parts, write the report."""
    arguments = _parse()
    for part in PARTS:
        if part in arguments.parts:
            before = os.getloadavg()[0]
            with tempfile.TemporaryDirectory(
                prefix="lvspec-bench-nightly-", dir=arguments.scratch
            ) as folder:
                done = _MEASURES[part](arguments, before, folder)
            _print(f"wrote {save_part(arguments.raw, done)}")
    _report(arguments.raw, arguments.output)


def _listing(arguments: argparse.Namespace, load_before: float, folder: str) -> ListingPart:
    listings = []
    with _server(DELAYED_OBJECTS, DELAY_S) as url:
        for flags in (("--in-order",), ()):
            delay = ("--delay-s", str(DELAY_S))
            found = _measure(
                ListTime, "list", DELAYED_OBJECTS, "--endpoint-url", url, *delay, *flags
            )
            listings.append(found)
    with _server(arguments.objects) as url:
        listings.append(_measure(ListTime, "list", arguments.objects, "--endpoint-url", url))
        first = _run(arguments.objects, url, folder)
        again = _run(arguments.objects, url, folder)
    ids = [_measure(IdsUse, "ids", num_ids) for num_ids in NUM_IDS]
    setting = _setting(arguments, load_before)
    return ListingPart(setting, tuple(listings), tuple(ids), first, again)


def _rerun(arguments: argparse.Namespace, load_before: float, folder: str) -> RerunPart:
    with _server(arguments.rerun_objects) as url:
        _run(arguments.rerun_objects, url, folder)
        runs = [_run(arguments.rerun_objects, url, folder) for _ in range(arguments.repetitions)]
    return RerunPart(_setting(arguments, load_before), tuple(runs))


def _verify(arguments: argparse.Namespace, load_before: float, folder: str) -> VerifyPart:
    found = nightly_verify.measure(arguments.verify_rows, Path(folder))
    _print(f"verify: {found}")
    if not found["verify"]["is_whole"]:
        raise RuntimeError("the synthetic data set is not whole")
    steps = [
        StepUse(found[step]["elapsed_s"], found[step]["peak_rss_bytes"])
        for step in nightly_verify.STEPS
    ]
    setting = _setting(arguments, load_before)
    return VerifyPart(setting, found["num_rows"], found["num_bytes"], *steps)


def _mutations(arguments: argparse.Namespace, load_before: float, folder: str) -> MutationsPart:
    command = [
        *(sys.executable, "-m", MUTATIONS_MODULE, "--folder", folder),
        *("--num-videos", str(arguments.mutated_videos)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | _ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    run = TypeAdapter(MutationRun).validate_json(done.stdout.splitlines()[-1])
    _print(f"mutations: {run}")
    return MutationsPart(_setting(arguments, load_before), run)


_MEASURES: dict[str, Callable[[argparse.Namespace, float, str], NightlyPart]] = {
    "listing": _listing,
    "rerun": _rerun,
    "verify": _verify,
    "mutations": _mutations,
}


def _run(num_objects: int, url: str, folder: str) -> DriverRun:
    return _measure(DriverRun, "run", num_objects, "--endpoint-url", url, "--output", folder)


def _measure(kind: type[Result], what: str, num_objects: int, *flags: str) -> Result:
    """One measured process. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", nightly_driver.__name__, what, str(num_objects), *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | _ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    result = TypeAdapter(kind).validate_json(done.stdout.splitlines()[-1])
    _print(f"{what}: {result}")
    return result


@contextmanager
def _server(num_objects: int, delay_s: float = 0.0) -> Iterator[str]:
    """The endpoint URL of a listing server in a process of its own."""
    command = [
        *(sys.executable, "-m", nightly_server.__name__, str(num_objects)),
        *("--delay-s", str(delay_s)),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()  # it ends with that


def _setting(arguments: argparse.Namespace, load_before: float) -> PartSetting:
    return PartSetting.now("benchmark_nightly.py", sys.argv[1:], load_before, arguments.note)


def _report(raw: Path, output: Path) -> None:
    results = load_results(raw)
    if not results.settings:
        _print(f"no results in {raw}")
        return
    output.mkdir(parents=True, exist_ok=True)
    day = max(setting.date for setting in results.settings.values())
    path = output / f"{day}-nightly.md"
    path.write_text(nightly_report.markdown(results, day), encoding="utf-8")
    nightly_report.write_summary(output / "summary.json", results)
    _print(f"wrote {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--objects", type=int, default=1_000_000, help="of the part listing")
    parser.add_argument("--rerun-objects", type=int, default=100_000, help="of the part rerun")
    parser.add_argument(
        "--verify-rows", type=int, default=1_000_000, help="of the part verify; e.g. 10000000"
    )
    parser.add_argument("--mutated-videos", type=int, default=1000, help="of the part mutations")
    parser.add_argument("--repetitions", type=int, default=5, help="of the run again")
    parser.add_argument("--scratch", type=Path, help="folder for the parts (default: temporary)")
    parser.add_argument("--note", default="", help="for the report: what else the machine does")
    parser.add_argument("--raw", type=Path, default=ROOT / "benchmarks" / "raw")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks")
    return parser.parse_args()


if __name__ == "__main__":
    main()

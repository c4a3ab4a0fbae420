"""Measure the endpoint under load: `make bench-serve`.

Parts: load (1 to 16 clients in a closed loop, with and without speculation, endpoints by turns) and
soak (a long time at moderate load: memory, descriptors and slots must not grow). Each leaves its
raw results under --raw; the report and the `serve` key of summary.json are made from all that lies
there. No part: the report alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from pipeline.benchmark import serve_client, serve_report
from pipeline.benchmark.raw_parts import PartSetting, save_part
from pipeline.benchmark.serve_endpoint import Endpoint, running
from pipeline.benchmark.serve_report import PLAIN
from pipeline.benchmark.serve_results import (
    LOAD,
    SOAK,
    LoadPart,
    LoadRun,
    ServeResults,
    SoakPart,
    SoakSample,
)
from pipeline.sample_world.corpus import CorpusPlan, write_corpus

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("load", "soak")
CLIENTS = (1, 2, 4, 8, 16)
COMMON = ["--recipe", "reference", "--max-num-seqs", "16"]
ENDPOINTS = {
    PLAIN: ["--speculation.method", "none"],
    "exact": ["--speculation.drafting.adaptive"],
    "safe": ["--speculation.method", "safe", "--speculation.drafting.adaptive"],
}
QUESTION = "Describe this video in detail."
MAX_TOKENS = 256
SEED = 11
SAMPLE_EVERY_S = 5.0
DRAINED_S = 30.0

_print = partial(print, flush=True)


def main() -> None:
    """Run the parts, write the report."""
    arguments = _parse()
    with tempfile.TemporaryDirectory(prefix="lvspec-bench-serve-") as scratch:
        for part in PARTS:
            if part in arguments.parts:
                before = os.getloadavg()[0]
                measure = _load if part == "load" else _soak
                done = measure(arguments, Path(scratch), before)
                name = LOAD if part == "load" else SOAK
                _print(f"wrote {save_part(arguments.raw, name, done)}")
    _report(arguments.raw, arguments.output)


def _load(arguments: argparse.Namespace, scratch: Path, load_before: float) -> LoadPart:
    bodies = _bodies(scratch, arguments.requests * len(CLIENTS))
    runs: list[LoadRun] = []
    with ExitStack() as stack:
        endpoints = {
            name: stack.enter_context(
                running([*COMMON, "--runner", arguments.runner, *flags], scratch / f"{name}.log")
            )
            for name, flags in ENDPOINTS.items()
        }
        for turn, num_clients in enumerate(CLIENTS):
            share = bodies[turn * arguments.requests : (turn + 1) * arguments.requests]
            for name, endpoint in endpoints.items():
                run = serve_client.closed_loop(name, endpoint.base_url, share, num_clients)
                tokens = sum(answer.output_tokens for answer in run.answers)
                _print(f"{num_clients} clients, {name}: {tokens / run.elapsed_s:.0f} tokens/s")
                runs.append(run)
    setting = _setting(arguments, load_before)
    return LoadPart(setting, arguments.runner, ENDPOINTS, tuple(runs))


def _soak(arguments: argparse.Namespace, scratch: Path, load_before: float) -> SoakPart:
    bodies = _bodies(scratch, arguments.soak_videos)
    flags = [*COMMON, "--runner", arguments.runner, *ENDPOINTS["exact"]]
    with running(flags, scratch / "soak.log") as endpoint:
        clients = serve_client.SoakClients(endpoint.base_url, bodies, arguments.think)
        samples = asyncio.run(_soak_samples(arguments, endpoint, clients))
    return SoakPart(
        _setting(arguments, load_before),
        arguments.runner,
        arguments.soak_clients,
        arguments.think,
        clients.num_abandoned,
        tuple(samples),
        tuple(clients.errors),
    )


async def _soak_samples(
    arguments: argparse.Namespace, endpoint: Endpoint, clients: serve_client.SoakClients
) -> list[SoakSample]:
    started_s = time.monotonic()
    end_s = started_s + arguments.minutes * 60
    asking = asyncio.create_task(clients.run(arguments.soak_clients))
    samples = []
    async with httpx.AsyncClient(base_url=endpoint.base_url, timeout=30) as client:
        while time.monotonic() < end_s:
            await asyncio.sleep(SAMPLE_EVERY_S)
            samples.append(await _sample(client, endpoint, clients, started_s))
            if len(samples) % 12 == 0:
                _print(f"soak: {samples[-1]}")
        clients.stop()
        await asking
        for _ in range(int(DRAINED_S)):  # what clients broke off ends after its round
            samples[-1] = await _sample(client, endpoint, clients, started_s)
            if samples[-1].num_running == 0:
                break
            await asyncio.sleep(1)
    return samples


async def _sample(
    client: httpx.AsyncClient,
    endpoint: Endpoint,
    clients: serve_client.SoakClients,
    started_s: float,
) -> SoakSample:
    usage = endpoint.usage()
    metrics = (await client.get("/metrics")).text
    return SoakSample(
        at_s=time.monotonic() - started_s,
        rss_bytes=usage.rss_bytes,
        num_fds=usage.num_fds,
        num_threads=usage.num_threads,
        num_running=_gauge(metrics, "lvspec_num_requests_running"),
        num_answered=clients.num_answered,
        num_failed=len(clients.errors),
    )


def _gauge(metrics: str, name: str) -> int:
    """A gauge's value, summed over its labels. Raises LookupError if there is none."""
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", metrics, re.MULTILINE)
    if not values:
        raise LookupError(f"/metrics has no {name}")
    return int(sum(map(float, values)))


def _bodies(scratch: Path, num_videos: int) -> list[dict[str, Any]]:
    folder = scratch / f"videos-{num_videos}"
    for _ in write_corpus(folder, CorpusPlan(num_videos, 0, SEED, ("h264",))):
        pass
    return [
        serve_client.body(url, QUESTION, MAX_TOKENS)
        for url in serve_client.data_urls(folder / "videos")
    ]


def _setting(arguments: argparse.Namespace, load_before: float) -> PartSetting:
    return PartSetting.now("benchmark_serve.py", sys.argv[1:], load_before, arguments.note)


def _report(raw: Path, output: Path) -> None:
    results = ServeResults.read(raw)
    if not results.settings:
        _print(f"no results in {raw}")
        return
    output.mkdir(parents=True, exist_ok=True)
    day = max(setting.date for setting in results.settings.values())
    path = output / f"{day}-serve.md"
    path.write_text(serve_report.markdown(results, day), encoding="utf-8")
    serve_report.write_summary(output / "summary.json", results)
    _print(f"wrote {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runner", choices=("local", "ray"), default="local")
    parser.add_argument("--requests", type=int, default=64, help="of a turn of the part load")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the part soak")
    parser.add_argument("--soak-clients", type=int, default=4)
    parser.add_argument("--soak-videos", type=int, default=97, help="they are asked about by turns")
    parser.add_argument("--think", type=float, default=0.5, help="between a client's requests, s")
    parser.add_argument("--note", default="", help="for the report: what else the machine does")
    parser.add_argument("--raw", type=Path, default=ROOT / "benchmarks" / "raw")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The dated report of the nightly benchmark, and its figures for summary.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.benchmark.nightly_checks_report import (
    CHECK_DEFINITIONS,
    mutated,
    mutated_json,
    verified,
    verified_json,
)
from pipeline.benchmark.nightly_results import (
    DriverRun,
    ListingPart,
    ListTime,
    NightlyResults,
    RerunPart,
)
from pipeline.dataset.run_folder import versions
from pipeline.progress import format_duration
from pipeline.report.markdown import table

DEFINITIONS = """\
- *Listing server*: a process of its own on loopback that answers ListObjectsV2, a thousand keys a
  page, of objects that nobody stores. Where a *delay* is named, it waits so long before each
  answer, as a store behind a network does.
- *Captioner*: none. A scripted one makes a caption record for each video, of one clip each; its own
  time is told and taken out of the committer's rate. Parts go to a local folder.
- *Reading what is done*: taking the data set over and reading the ids of its rows. *Planning*: the
  names of its rows, the listing, the difference, and writing the plan's parts. *Committing*: from
  the first record asked for to the last part written.
- *Peak*: the kernel's high-water mark of the driver's resident memory (VmHWM), up to the end of
  that phase; imports are the first row.
- *CPU*: seconds of the driver's CPU alone. On a machine that does other things, or that the listing
  server shares a core with, it says what the driver needs; the wall clock says what it took there.
- *Extrapolated*: measured CPU seconds per object, and bytes per id, times the number. Nothing in
  these phases sorts or joins, so time is linear; what it leaves out is told below the table.
"""
_REASONING = """\
Why linear: a listing page costs the same wherever it lies, and an id is looked up in a bucket that
its first two bytes name. A bucket's search grows with its length (150 ids at ten million, 1,500 at
a hundred million: there a look-up takes longer, so that row is a lower bound). Memory: two ids for
each done video, its own and its name's; and another for each name in data sets of other digests,
if there is anything new to explain. Not in it: clips of a video beyond its first (time to read
their rows, no memory), round trips to parts in S3, and a store that throttles. Parsing the answers
is most of planning, on one core: at a hundred million objects an inventory, given as a manifest, is
the better way."""
_SCALES = (10_000_000, 100_000_000)
_IDS_PER_VIDEO = 2  # its own and its name's
_KEY = "nightly"


def markdown(results: NightlyResults, day: str) -> str:
    """The report of whatever parts there are."""
    sections = [f"# A night without captioning, {day}", f"{DEFINITIONS}{CHECK_DEFINITIONS}"]
    if results.listing:
        sections += [
            "## A first night and the night after it",
            _runs([results.listing.first, results.listing.again]),
            "## Listing alone",
            _listings(results.listing),
            "## Ids of what is done",
            _ids(results.listing),
            "## Ten and a hundred million",
            _extrapolated(results.listing),
        ]
    if results.rerun:
        sections += ["## An unchanged bucket", _reruns(results.rerun)]
    if results.verify:
        sections += ["## Proving and compacting", verified(results.verify)]
    if results.mutations:
        sections += ["## Mutated videos", mutated(results.mutations)]
    sections += ["## What it was measured on", "\n".join(_settings(results))]
    return "\n\n".join(sections) + "\n"


def write_summary(path: Path, results: NightlyResults) -> None:
    """Set the key ``nightly``; other keys stay as they are."""
    summary: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    parts: dict[str, Any] = {name: asdict(s) for name, s in results.settings.items()}
    if results.listing:
        parts["listing"] |= {
            "first": _run_json(results.listing.first),
            "again": _run_json(results.listing.again),
            "listings": [asdict(each) for each in results.listing.listings],
            "ids": [asdict(each) for each in results.listing.ids],
            "extrapolated": [extrapolated(results.listing, scale) for scale in _SCALES],
        }
    if results.rerun:
        totals = [run.total_s for run in results.rerun.runs]
        parts["rerun"] |= {
            "objects": results.rerun.runs[0].num_objects,
            "median_s": median(totals),
            "least_s": min(totals),
            "most_s": max(totals),
            "median_cpu_s": median(run.total_cpu_s for run in results.rerun.runs),
            "runs": [_run_json(run) for run in results.rerun.runs],
        }
    if results.verify:
        parts["verify"] |= verified_json(results.verify)
    if results.mutations:
        parts["mutations"] |= mutated_json(results.mutations)
    summary[_KEY] = {**summary.get(_KEY, {}), **parts}
    path.write_text(json.dumps(summary, indent=2) + "\n")


def extrapolated(part: ListingPart, num_objects: int) -> dict[str, float]:
    """What so many objects would take: seconds, and bytes of the driver's memory."""
    first, again = part.first, part.again
    scale = num_objects / first.num_objects
    ids = part.ids[-1]
    per_video = _IDS_PER_VIDEO * ids.growth_bytes / ids.num_ids
    at_rest = max(again.peak_rss_bytes.values()) - per_video * again.num_objects
    return {
        "objects": num_objects,
        "first_planning_cpu_s": first.planning_cpu_s * scale,
        "first_committing_cpu_s": first.commit_cpu_s * scale,
        "again_cpu_s": again.total_cpu_s * scale,
        "again_memory_bytes": at_rest + per_video * num_objects,
    }


def _run_json(run: DriverRun) -> dict[str, Any]:
    return asdict(run) | {
        "total_s": run.total_s,
        "commit_rows_per_s": run.commit_rate,
        "commit_rows_per_cpu_s": run.commit_cpu_rate,
    }


def _runs(runs: list[DriverRun]) -> str:
    header = ["", *(f"{run.num_captions:,} of {run.num_objects:,} to caption" for run in runs)]
    rows = [
        ["reading what is done, s", *_both((run.read_done_s, run.read_done_cpu_s) for run in runs)],
        ["planning, s", *_both((run.planning_s, run.planning_cpu_s) for run in runs)],
        ["committing, s", *_both((run.commit_s, run.commit_cpu_s) for run in runs)],
        [
            "the scripted captioner's own time, s",
            *_both((run.captioner_s, run.captioner_cpu_s) for run in runs),
        ],
        ["all, s", *_both((run.total_s, run.total_cpu_s) for run in runs)],
        [
            "committer, rows/s",
            *(
                f"{run.commit_rate:,.0f} ({run.commit_cpu_rate:,.0f} a CPU s)"
                if run.num_captions
                else "-"
                for run in runs
            ),
        ],
    ]
    rows += [
        [f"peak after {phase}, MB", *(f"{run.peak_rss_bytes[phase] / 1e6:.0f}" for run in runs)]
        for phase in ("imports", "read_done", "planning", "captioning")
    ]
    return table(header, rows)


def _both(times: Iterable[tuple[float, float]]) -> Iterator[str]:
    return (f"{wall_s:.1f} (CPU {cpu_s:.1f})" for wall_s, cpu_s in times)


def _listings(part: ListingPart) -> str:
    header = ["objects", "delay, s", "how", "elapsed, s", "CPU, s", "CPU us an object", "peak, MB"]
    return table(header, [_listing_row(each) for each in part.listings])


def _listing_row(each: ListTime) -> list[str]:
    return [
        f"{each.num_objects:,}",
        f"{each.delay_s:g}",
        "one stream" if each.in_order else "side by side",
        f"{each.elapsed_s:.1f}",
        f"{each.cpu_s:.1f}",
        f"{each.cpu_s / each.num_objects * 1e6:.0f}",
        f"{each.peak_rss_bytes / 1e6:.0f}",
    ]


def _ids(part: ListingPart) -> str:
    rows = [
        [
            f"{each.num_ids:,}",
            f"{each.growth_bytes / 1e6:.0f}",
            f"{each.growth_bytes / each.num_ids:.1f}",
            f"{each.elapsed_s:.1f}",
        ]
        for each in part.ids
    ]
    return table(["complete videos", "memory, MB", "bytes each", "adding them, s"], rows)


def _extrapolated(part: ListingPart) -> str:
    header = [
        "objects",
        "first night: planning, CPU",
        "committing, CPU",
        "night after it: all, CPU",
        "its memory, GB",
    ]
    rows = []
    for scale in _SCALES:
        figures = extrapolated(part, scale)
        rows.append(
            [
                f"{scale:,}",
                format_duration(figures["first_planning_cpu_s"]),
                format_duration(figures["first_committing_cpu_s"]),
                format_duration(figures["again_cpu_s"]),
                f"{figures['again_memory_bytes'] / 1e9:.1f}",
            ]
        )
    return f"{table(header, rows)}\n\n{_REASONING}"


def _reruns(part: RerunPart) -> str:
    totals = [run.total_s for run in part.runs]
    header = ["run", "reading what is done, s", "planning, s", "all, s", "CPU, s", "peak, MB"]
    rows = [
        [
            str(number),
            f"{run.read_done_s:.2f}",
            f"{run.planning_s:.2f}",
            f"{run.total_s:.2f}",
            f"{run.total_cpu_s:.2f}",
            f"{max(run.peak_rss_bytes.values()) / 1e6:.0f}",
        ]
        for number, run in enumerate(part.runs, 1)
    ]
    return (
        f'{part.runs[0].num_objects:,} objects, all done: "nothing to do" after '
        f"{median(totals):.1f} s (median of {len(totals)}, {min(totals):.1f} to "
        f"{max(totals):.1f}).\n\n{table(header, rows)}"
    )


def _settings(results: NightlyResults) -> Iterator[str]:
    named = ", ".join(f"{name} {v}" for name, v in versions().items() if v)
    yield f"- versions: {named}"
    for name, s in results.settings.items():
        line = (
            f"- {name}: `{s.command}`, commit {s.commit}, {s.date}, {s.hardware}; load average "
            f"{s.load_before:.1f} before and {s.load_after:.1f} after"
        )
        yield f"{line}; {s.note}" if s.note else line

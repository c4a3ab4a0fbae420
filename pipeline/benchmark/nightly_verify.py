"""How long proving and compacting a large data set takes, and how much memory: synthetic rows.

    python -m pipeline.benchmark.nightly_verify --num-rows 10000000 --folder /tmp/verify

Each step is a process of its own, so that its peak memory is its own. Rows have the real schema;
ids are random, the rest repeats, so files are smaller and faster to write than real ones. What
verification reads (ids, counters, histograms) is as large as in real parts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.benchmark.peak_memory import peak_rss_bytes
from pipeline.config import StorageConfig
from pipeline.dataset.compact import compact
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.verify import verify
from pipeline.progress import StepProgress
from pipeline.storage import storage_for

DIGEST = "0123456789abcdef"
STEPS = ("verify", "compact")

_ROWS_PER_PART = 10_000
_CLIPS_PER_VIDEO = 4
_FAILURES_EVERY = 50  # one video in fifty failed as a whole
_RUN_ID = "20260101-000000-utc-000000"
_CONSTANTS: dict[str, Any] = {
    "output_tokens": 11,
    "target_steps": 4,
    "drafted_tokens": 12,
    "accepted_tokens": 7,
    "relaxed_tokens": 2,
    "shifted_tokens": 1,
    "anchor_tokens": 3,
    "correction_tokens": 3,
    "bonus_tokens": 1,
    "rejected_by_cause": [("anchor", 1), ("mismatch", 2)],
    "accepted_histogram": [1, 1, 0, 2],
    "frame_times_s": [float(second) for second in range(16)],
    "caption": "A red square moves to the right while a blue circle stays where it is. " * 5,
    "code": "truncated",
    "config_digest": DIGEST,
    "run_id": _RUN_ID,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
}


def measure(num_rows: int, folder: Path, steps: Sequence[str] = STEPS) -> dict[str, Any]:
    """Write a data set of about so many captions, unless it is there, and measure each step.

    Seconds are wall clock; bytes are the peak resident set of the step's process.
    """
    dataset = folder / f"rows-{num_rows}" / DIGEST
    started_s = time.monotonic()
    if not (dataset / "runs" / _RUN_ID / "metrics.json").exists():
        write_dataset(dataset, num_rows)
    result: dict[str, Any] = {
        "num_rows": num_rows,
        "num_bytes": sum(path.stat().st_size for path in dataset.glob("*/part-*")),
        "write_s": time.monotonic() - started_s,
    }
    for step in steps:
        command = [
            sys.executable,
            "-m",
            "pipeline.benchmark.nightly_verify",
            "--step",
            step,
            "--dataset",
            str(dataset),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result[step] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_dataset(dataset: Path, num_rows: int) -> None:
    """Parts of 10,000 rows, a plan of every video, and the figures that end the run."""
    rng = np.random.default_rng(0)
    for table in Table:
        (dataset / table).mkdir(parents=True, exist_ok=True)
    plan = dataset / "runs" / _RUN_ID / "plan"
    plan.mkdir(parents=True, exist_ok=True)
    num_parts = -(-num_rows // _ROWS_PER_PART)
    progress = StepProgress("writing parts", num_parts, print)
    for number in range(1, num_parts + 1):
        num_videos = _ROWS_PER_PART // _CLIPS_PER_VIDEO
        num_failed = num_videos // _FAILURES_EVERY
        videos = _hex_ids(rng, num_videos + num_failed)
        captioned, failed = videos[:num_videos], videos[num_videos:]
        captions = _rows(Table.CAPTIONS, captioned, _CLIPS_PER_VIDEO, rng)
        failures = _rows(Table.FAILURES, failed, 1, rng)
        name = f"part-{number:08d}.parquet"
        pq.write_table(captions, dataset / "captions" / name, compression="zstd")
        pq.write_table(failures, dataset / "failures" / name, compression="zstd")
        planned = pa.table({"uri": _uris(videos), "video_id": videos})
        pq.write_table(planned, plan / name, compression="zstd")
        progress.show(number)
    (plan.parent / "metrics.json").write_text("{}")


def _rows(
    table: Table, videos: pa.Array, clips_per_video: int, rng: np.random.Generator
) -> pa.Table:
    """Rows of whole videos; of a failure its clip columns are null."""
    num_rows = len(videos) * clips_per_video
    of_video = np.repeat(np.arange(len(videos)), clips_per_video)
    index = np.tile(np.arange(clips_per_video, dtype=np.int32), len(videos))
    own = {
        "video_id": videos.take(pa.array(of_video)),
        "source_uri": _uris(videos).take(pa.array(of_video)),
        "clip_id": _hex_ids(rng, num_rows),
        "clip_index": pa.array(index),
        "num_clips": pa.array(np.full(num_rows, clips_per_video, np.int32)),
    }
    columns = []
    for field in table.schema:
        is_of_a_clip = field.name in own and not field.nullable
        if is_of_a_clip:
            columns.append(own[field.name])
        elif field.nullable:
            columns.append(pa.nulls(num_rows, field.type))
        else:
            value = _CONSTANTS.get(field.name, "text" if pa.types.is_string(field.type) else 1)
            columns.append(pa.array([value], field.type).take(pa.array(np.zeros(num_rows, int))))
    return pa.Table.from_arrays(columns, schema=table.schema)


def _hex_ids(rng: np.random.Generator, num_ids: int) -> pa.Array:
    text = rng.bytes(16 * num_ids).hex().encode()
    offsets: npt.NDArray[np.int32] = np.arange(0, 32 * num_ids + 1, 32, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), num_ids, buffers)


def _uris(videos: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise("s3://corpus/", videos, ".mp4", "")


def _run_step(step: str, dataset: str) -> dict[str, Any]:
    storage = storage_for(dataset, StorageConfig())
    layout = Layout(dataset)
    started_s = time.monotonic()
    outcome: dict[str, Any] = {}
    if step == "verify":
        report = verify(storage, layout.uri)
        outcome = {
            "is_whole": report.is_whole,
            "num_captions": report.num_captions,
            "num_failures": report.num_failures,
            "num_expected_videos": report.num_expected_videos,
        }
    else:
        done = compact(storage, layout.uri)
        assert done is not None, "the data set has commits"
        outcome = {
            "is_new": done.is_new,
            "num_files": done.snapshot.captions.num_parts + done.snapshot.failures.num_parts,
            "num_bytes": done.snapshot.captions.num_bytes + done.snapshot.failures.num_bytes,
        }
    elapsed_s = time.monotonic() - started_s
    return outcome | {"elapsed_s": elapsed_s, "peak_rss_bytes": peak_rss_bytes()}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure what the command line asks for; print it as JSON, and return it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="keeps the synthetic data set")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.step:
        result = _run_step(arguments.step, arguments.dataset)
    elif arguments.folder:
        result = measure(arguments.num_rows, arguments.folder, arguments.steps)
    else:
        parser.error("--folder is required")
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()

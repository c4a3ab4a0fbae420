"""The whole product on one machine: `make demo`.

Writes a corpus of sample videos (and damaged files) into a real S3 server on loopback, starts a
Ray head, submits jobs/caption_corpus.py to it twice, downloads the data set and holds it against
the corpus. The first job captions everything, the second finds nothing to do. Everything that is
started here is ended here, also on Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import boto3

from actors.local_services import RayHead, ray_head, s3_server
from pipeline.config import StorageConfig
from pipeline.sample_world.corpus import CorpusPlan, write_corpus
from pipeline.sample_world.corpus_score import CorpusScore, score_corpus
from pipeline.storage import join_uri, storage_for

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "demo"
INPUT_URI = f"s3://{BUCKET}/videos"
OUTPUT_URI = f"s3://{BUCKET}/captions"


class DemoError(Exception):
    """A step of the demo did not do what it promises."""


def main() -> int:
    """Run the demo; 0 if every step did what it promises."""
    arguments = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    output: Path = arguments.output.resolve()
    for name in ("corpus", "dataset", "logs"):
        shutil.rmtree(output / name, ignore_errors=True)
    started_s = time.monotonic()
    try:
        with s3_server(output / "logs") as s3:
            os.environ.update(s3.environment)
            _step(f"writing {arguments.num_videos} videos and {arguments.num_damaged} damaged ones")
            plan = CorpusPlan(arguments.num_videos, arguments.num_damaged, arguments.seed)
            for _ in write_corpus(output / "corpus", plan):
                pass
            _upload(output / "corpus" / "videos")
            _step(f"uploaded to {INPUT_URI} at {s3.endpoint_url}; starting a Ray head")
            with ray_head(output / "logs", num_cpus=2, environment=s3.environment) as head:
                _step("submitting jobs/caption_corpus.py")
                first = _submit(head, arguments)
                _step("submitting it again: nothing is left to do")
                second = _submit(head, arguments)
            _download(output / "dataset")
    except KeyboardInterrupt:
        print("\ninterrupted; the Ray head and the S3 server were ended", file=sys.stderr)
        return 130
    except DemoError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    dataset = output / "dataset" / first["dataset"].rpartition("/")[2]
    score = score_corpus(dataset, output / "corpus")
    print(_report(first, second, score, dataset, time.monotonic() - started_s))
    if problems := _problems(first, second, score):
        print("demo failed: " + "; ".join(problems), file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-videos", type=int, default=120, help="good files")
    parser.add_argument("--num-damaged", type=int, default=6, help="damaged files")
    parser.add_argument(
        "--tensor-parallel-size", type=int, default=1, help="ranks that share the target"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other videos")
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "demo-output",
        help="folder for corpus/, dataset/ and logs/, which are emptied first",
    )
    return parser.parse_args()


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    """Unwind once; what comes after is ignored, so that the clean-up is not interrupted itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _upload(folder: Path) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda path: client.upload_file(str(path), BUCKET, f"videos/{path.name}"),
                folder.iterdir(),
            )
        )


def _submit(head: RayHead, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Submit the job, show its output, and return the JSON summary that is its last line.

    The failure budget is the number of files that were damaged on purpose.
    """
    command = [
        str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", ".", "--",
        "python", "jobs/caption_corpus.py", "--recipe", "reference",
        "--input", INPUT_URI, "--output", OUTPUT_URI, "--speculation.plain-share", "1",
        "--failures.max-share", "1", "--failures.max-count", str(arguments.num_damaged),
        "--tensor-parallel-size", str(arguments.tensor_parallel_size),
    ]  # fmt: skip
    summary: Mapping[str, Any] | None = None
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | dict(head.environment), text=True, bufsize=1,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("{"):
                    summary = json.loads(line)
                elif "packaging.py" not in line:  # Ray tells of every ignored file of the upload
                    print("   ", line.rstrip(), flush=True)
        except KeyboardInterrupt:
            process.kill()
            raise
    if process.returncode != 0 or summary is None:
        raise DemoError(f"the job ended with exit code {process.returncode}")
    return summary


def _download(folder: Path) -> None:
    storage = storage_for(OUTPUT_URI, StorageConfig())
    for item in storage.list(OUTPUT_URI):
        path = folder / item.uri.removeprefix(join_uri(OUTPUT_URI, ""))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read_bytes(item.uri))


def _problems(first: Mapping[str, Any], second: Mapping[str, Any], score: CorpusScore) -> list[str]:
    """What the demo promises and did not keep."""
    promises = {
        "not every file has exactly one row": score.is_complete,
        "speculative text differs from plain text": first["plain"]["equal_share"] == 1,
        "the second run captioned something": not second["num_captions"] + second["num_failures"],
    }
    return [problem for problem, kept in promises.items() if not kept]


def _report(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    score: CorpusScore,
    dataset: Path,
    elapsed_s: float,
) -> str:
    plain = first["plain"]
    causes = ", ".join(f"{count} {code}" for code, count in first["failures_by_code"].items())
    lines = {
        "input objects": f"{score.num_files}, {len(score.missing)} without a row, "
        f"{len(score.repeated)} with more than one",
        "captions": f"{first['num_captions']} in {first['elapsed_s']:.0f} s",
        "failures": f"{first['num_failures']}: {causes}",
        "facts right": f"{score.facts_right:.1%}, n = {score.facts_right.num_samples} "
        "(share of a scene's facts, 95 % interval)",
        "speculative decoding": f"{first['output_tokens_per_s']:.0f} tokens/s, mean accepted "
        f"length {first['mean_accepted_length']:.2f}",
        "against plain decoding": f"{plain['speed_up']:.2f} times as fast "
        f"[{plain['speed_up_low']:.2f}, {plain['speed_up_high']:.2f}] in the same run, "
        f"same text for {plain['equal_share']:.1%} of {plain['num_clips']} clips",
        "video decode": f"{first['video_decode_s_per_clip'] * 1e3:.0f} ms a clip; the model waits "
        f"for frames {first['captioner_wait_share']:.1%} of its time",
        "second run": f"{second['num_captions']} captions, {second['num_failures']} failures",
        "data set": str(dataset),
        "whole demo": f"{elapsed_s:.0f} s",
    }
    return "\n" + "\n".join(f"{name:>24}  {value}" for name, value in lines.items())


if __name__ == "__main__":
    sys.exit(main())

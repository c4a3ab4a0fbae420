"""Measure every decoding method on held-out clips of the sample world: `make bench`.

Writes benchmarks/<date>-decoding.md and the `decoding` key of benchmarks/summary.json.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.benchmark.decoding import BenchmarkClip, MethodResult, measure, standard_methods
from pipeline.benchmark.report import markdown, table, write_summary
from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo, list_videos
from pipeline.decoding.request import CaptionRequest
from pipeline.models.base import VideoLM
from pipeline.models.loading import load_pair
from pipeline.records import DecodedClip, Failure
from pipeline.sample_world.corpus import CorpusPlan, read_facts, write_corpus
from pipeline.sample_world.facts import Facts, caption_facts, facts_right
from pipeline.settings import load_run_config
from pipeline.stages.decode import DecodeStage

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, print the table, write the report."""
    arguments = _parse()
    with tempfile.TemporaryDirectory(prefix="lvspec-bench-") as folder:
        corpus = Path(folder)
        for _ in write_corpus(corpus, CorpusPlan(arguments.num_clips, seed=arguments.seed)):
            pass
        config = load_run_config(
            ["--recipe", "reference", "--input", str(corpus / "videos"), "--output", folder,
             "--dtype", arguments.dtype, "--models.draft.dtype", arguments.draft_dtype]
        )  # fmt: skip
        target, draft = load_pair(config.models)
        if draft is None:
            raise SystemExit("the reference recipe has no draft")
        clips = list(_clips(config, target, draft, read_facts(corpus)))
    results: list[MethodResult] = []
    for batch in arguments.batch:
        results += measure(
            target,
            draft,
            config.generation,
            standard_methods(arguments.num_speculative_tokens),
            clips,
            batch,
        )
        print(f"batch {batch} done", flush=True)
    print(table(results))
    day = datetime.now(UTC).date()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    setting = (
        f"{len(clips)} clips of corpus seed {arguments.seed}, {config.models.num_threads} thread, "
        f"target {arguments.dtype}, draft {arguments.draft_dtype}, greedy"
    )
    report = arguments.output / f"{day.isoformat()}-decoding.md"
    command = shlex.join(["python", "jobs/benchmark.py", *sys.argv[1:]])
    report.write_text(
        markdown(results, day=day, command=command, setting=setting, commit=commit or "unknown")
    )
    write_summary(arguments.output / "summary.json", results, day=day, commit=commit)
    print(f"wrote {report}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-clips", type=int, default=200, help="held-out clips")
    parser.add_argument("--seed", type=int, default=1, help="corpus seed (the demo takes 0)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8], help="batch sizes")
    parser.add_argument(
        "--num-speculative-tokens", type=int, nargs="+", default=[2, 4, 6, 8], help="K"
    )
    parser.add_argument("--dtype", default="float32", help="of the target")
    parser.add_argument("--draft-dtype", default="float32", help="of the draft")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="report folder")
    return parser.parse_args()


def _clips(
    config: RunConfig, target: VideoLM, draft: VideoLM, truth: dict[str, Facts]
) -> Iterator[BenchmarkClip]:
    with DecodeStage(config) as decode:
        for video in list_videos(config.input, config.storage):
            facts = truth[video.uri.rpartition("/")[2]]
            for clip in decode(PlannedVideo(video)):
                if isinstance(clip, Failure):
                    raise SystemExit(f"{video.uri}: {clip.message}")
                yield BenchmarkClip(
                    _request(clip, config, target, draft),
                    partial(_share_right, facts),
                )


def _share_right(truth: Facts, caption: str) -> float:
    return facts_right(caption_facts(caption), truth)


def _request(
    clip: DecodedClip, config: RunConfig, target: VideoLM, draft: VideoLM
) -> CaptionRequest:
    return CaptionRequest(
        clip.clip_id, target.prepare(clip, config.prompt), draft.prepare(clip, config.prompt)
    )


if __name__ == "__main__":
    main()

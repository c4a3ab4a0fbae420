"""A thousand damaged videos through the whole job: each is one row, nothing crashes, nothing hangs.

    python -m pipeline.benchmark.nightly_mutations --num-videos 1000 --folder /tmp/mutations

All is real (the decode process and its limits, the stages, the engine, the commits) but the model,
which is scripted: what is asked is whether hostile bytes get past the decode stage.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.benchmark.nightly_results import MutationRun
from pipeline.benchmark.peak_memory import peak_rss_bytes
from pipeline.config import (
    DecodeLimits,
    FailureBudget,
    FrameSamplingConfig,
    FrameSizeConfig,
    GenerationConfig,
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    VideoConfig,
)
from pipeline.dataset.catalog import PlannedVideo, list_videos
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows
from pipeline.dataset.verify import verify
from pipeline.failure_kinds import kind_of
from pipeline.local_runner import caption_locally
from pipeline.models.scripted import Script, ScriptedVideoLM
from pipeline.records import CaptionerTiming, Outcome
from pipeline.run import RunRequest, run_corpus
from pipeline.sample_world.mutations import mutants, write_sources
from pipeline.stages.caption import CaptionStage
from pipeline.storage import storage_for

LIMIT_S = 20.0
"""Wall clock of opening a video, and of decoding its clip."""
_DIGEST = "0" * 16
_RUN_ID = "mutations"
_SIDE_PX = 56


def run_config(folder: Path) -> RunConfig:
    """Small frames, strict limits, and no second attempts: a hang has to show."""
    return RunConfig(
        input=InputConfig(uri=str(folder / "videos")),
        output=OutputConfig(uri=str(folder / "out")),
        video=VideoConfig(
            sampling=FrameSamplingConfig(num_frames=4),
            frame_size=FrameSizeConfig(fixed_px=(_SIDE_PX, _SIDE_PX)),
            limits=DecodeLimits(
                plan_timeout_s=LIMIT_S, timeout_s=LIMIT_S, max_memory_bytes=1 << 30
            ),
        ),
        models=ModelsConfig(
            target=ModelConfig(name="scripted"), draft=ModelConfig(name="scripted")
        ),
        generation=GenerationConfig(max_tokens=16),
        speculation=SpeculationConfig(),
        failures=FailureBudget(max_share=1.0, max_attempts=1),
    )


def measure(num_videos: int, folder: Path, more_sources: Sequence[Path] = ()) -> MutationRun:
    """Damage, caption and verify. ``folder`` must be empty; further sources are damaged as well."""
    sources, videos = folder / "sources", folder / "videos"
    sources.mkdir(parents=True)
    videos.mkdir()
    for mutant in mutants([*write_sources(sources), *more_sources], num_videos):
        (videos / f"{mutant.name}{mutant.suffix}").write_bytes(mutant.data)
    config = run_config(folder)
    watch = _Watch()
    started_s = time.monotonic()
    summary = run_corpus(RunRequest(config, _DIGEST, _RUN_ID), watch.caption, lambda line: None)
    elapsed_s = time.monotonic() - started_s
    layout = Layout.of(config.output.uri, _DIGEST)
    storage = storage_for(layout.uri, config.storage)
    report = verify(storage, layout.uri, list_videos(config.input, config.storage))
    failed = iter_rows(storage, layout, Table.FAILURES, ["source_uri"])
    return MutationRun(
        num_videos=num_videos,
        num_captions=summary.num_captions,
        failures_by_code=summary.failures_by_code,
        failures_by_kind=dict(_kinds(summary.failures_by_code)),
        failed_by_mutation=_by_mutation(row["source_uri"] for row in failed),
        videos_by_mutation=_by_mutation(map(str, videos.iterdir())),
        problems=report.problems,
        longest_wait_s=watch.longest_wait_s,
        elapsed_s=elapsed_s,
        peak_rss_bytes=peak_rss_bytes(),
    )


class _Watch:
    """The local runner with a scripted pair, and the longest time that it let one wait."""

    def __init__(self) -> None:
        self.longest_wait_s = 0.0

    def caption(
        self, config: RunConfig, videos: Iterable[PlannedVideo]
    ) -> Iterator[Outcome | CaptionerTiming]:
        asked_s = time.monotonic()
        for outcome in caption_locally(config, videos, _scripted_stage):
            self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - asked_s)
            yield outcome
            asked_s = time.monotonic()


def _scripted_stage(config: RunConfig) -> CaptionStage:
    target, draft = ScriptedVideoLM(Script()), ScriptedVideoLM(Script(agreement=0.7))
    return CaptionStage.of_pair(config, target, draft)


def _by_mutation(uris: Iterable[str]) -> dict[str, int]:
    counts = Counter(Path(uri).name.split("-")[1] for uri in uris)
    return dict(sorted(counts.items()))


def _kinds(by_code: dict[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for code, count in by_code.items():
        counts[kind_of(code).value] += count
    return counts


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-videos", type=int, default=1000)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args(argv)
    result = measure(arguments.num_videos, arguments.folder)
    print(TypeAdapter(MutationRun).dump_json(result).decode(), flush=True)


if __name__ == "__main__":
    main()

"""The measured processes of the nightly benchmark: each does one thing and prints it as JSON.

`python -m pipeline.benchmark.nightly_driver list|ids|run ...`: a process of its own for each, as
the peak of its memory is the kernel's high-water mark.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from pydantic import TypeAdapter

from pipeline.benchmark.nightly_results import DriverRun, IdsUse, ListTime
from pipeline.benchmark.peak_memory import peak_rss_bytes
from pipeline.config import (
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    RunConfig,
    SpeculationConfig,
    SpeculationMethod,
    StorageConfig,
)
from pipeline.dataset.catalog import list_videos
from pipeline.dataset.done import DoneClips
from pipeline.dataset.plan_parts import WrittenPlan
from pipeline.records import (
    Caption,
    CaptionerTiming,
    CaptionRecord,
    ClipSpec,
    DecodingStats,
    FinishReason,
    Outcome,
    VideoInfo,
    VideoObject,
)
from pipeline.run import RunRequest, new_run_id, run_corpus

INPUT = "s3://corpus/videos"
_DIGEST = "0" * 16
_INFO = VideoInfo("mov,mp4", "h264", 640, 360, 0, 12.0, 25.0, 300)
_STATS = DecodingStats(
    prompt_tokens=600,
    visual_tokens=512,
    output_tokens=64,
    target_steps=16,
    drafted_tokens=64,
    accepted_tokens=48,
    relaxed_tokens=0,
    shifted_tokens=0,
    anchor_tokens=0,
    correction_tokens=14,
    bonus_tokens=2,
    rejected_by_cause={"mismatch": 14},
    accepted_histogram=(1, 2, 3, 4, 6),
    prefill_s=0.1,
    draft_s=0.1,
    verify_s=0.2,
    decode_s=0.4,
)


class Times(NamedTuple):
    """Seconds by the wall clock and of this process's CPU."""

    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> Times:
        """Since some moment."""
        return cls(time.monotonic(), time.process_time())

    def __add__(self, other: Times) -> Times:  # type: ignore[override]  # not a longer tuple
        return Times(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __sub__(self, other: Times) -> Times:
        return Times(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


class ScriptedCaptioner:
    """One caption for each video, no model; it counts the time that it takes itself."""

    def __init__(self) -> None:
        self.own = Times(0.0, 0.0)

    def __call__(self, config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome | CaptionerTiming]:
        """Caption in the plan's order."""
        resumed = Times.now()
        for planned in plan:
            record = _caption(planned.video)
            self.own += Times.now() - resumed
            yield record
            resumed = Times.now()


def _caption(video: VideoObject) -> CaptionRecord:
    spec = ClipSpec(video, 0, 1, 0.0, 12.0)
    text = f"A person in a red coat crosses a wet street at night and stops ({spec.clip_id[:8]})."
    return CaptionRecord(
        spec=spec,
        info=_INFO,
        frames_digest=spec.clip_id,
        frame_times_s=tuple(0.75 * index for index in range(16)),
        caption=Caption(text, tuple(range(64)), FinishReason.STOP, _STATS),
        video_decode_s=0.2,
        attempt=1,
    )


def run_config(endpoint_url: str, output: str) -> RunConfig:
    """A whole config of which only input, output and storage matter."""
    return RunConfig(
        input=InputConfig(uri=INPUT),
        output=OutputConfig(uri=output),
        storage=StorageConfig(
            endpoint_url=endpoint_url, region="us-east-1", addressing_style="path"
        ),
        models=ModelsConfig(target=ModelConfig(name="scripted")),
        speculation=SpeculationConfig(method=SpeculationMethod.NONE),
    )


def measure_run(endpoint_url: str, num_objects: int, output: str) -> DriverRun:
    """A run over the listing; the run tells by its lines when a phase ends."""
    captioner = ScriptedCaptioner()
    request = RunRequest(run_config(endpoint_url, output), _DIGEST, new_run_id())
    marks: dict[str, Times] = {}
    peaks: dict[str, int] = {"imports": peak_rss_bytes()}

    def note(line: str) -> None:
        phase = "read_done" if line.startswith("planning") else "planning"
        if phase not in marks:
            marks[phase] = Times.now()
            peaks[phase] = peak_rss_bytes()

    started = Times.now()
    summary = run_corpus(request, captioner, note)
    ended = Times.now()
    peaks["captioning"] = peak_rss_bytes()
    read_done = marks["read_done"] - started
    planning = marks["planning"] - marks["read_done"]
    captioning = ended - marks["planning"]
    return DriverRun(
        num_objects=num_objects,
        num_captions=summary.num_captions,
        read_done_s=read_done.wall_s,
        planning_s=planning.wall_s,
        captioning_s=captioning.wall_s,
        captioner_s=captioner.own.wall_s,
        read_done_cpu_s=read_done.cpu_s,
        planning_cpu_s=planning.cpu_s,
        captioning_cpu_s=captioning.cpu_s,
        captioner_cpu_s=captioner.own.cpu_s,
        peak_rss_bytes=peaks,
    )


def measure_listing(
    endpoint_url: str, num_objects: int, delay_s: float, in_order: bool
) -> ListTime:
    """List, and keep nothing."""
    config = run_config(endpoint_url, "unused")
    started_s, cpu_s = time.monotonic(), time.process_time()
    num_found = sum(1 for _ in list_videos(config.input, config.storage, in_order))
    if num_found != num_objects:
        raise RuntimeError(f"{num_found} of {num_objects} objects were listed")
    return ListTime(
        num_objects=num_objects,
        delay_s=delay_s,
        in_order=in_order,
        elapsed_s=time.monotonic() - started_s,
        cpu_s=time.process_time() - cpu_s,
        peak_rss_bytes=peak_rss_bytes(),
    )


def measure_ids(num_ids: int) -> IdsUse:
    """Complete videos of one clip each."""
    before, started_s = peak_rss_bytes(), time.monotonic()
    done = DoneClips()
    for number in range(num_ids):
        video_id = blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
        done.add(video_id, video_id, 1)
    return IdsUse(num_ids, time.monotonic() - started_s, peak_rss_bytes() - before)


def main() -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("list", "ids", "run"))
    parser.add_argument("num_objects", type=int)
    parser.add_argument("--endpoint-url", default="")
    parser.add_argument("--output", default="")
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--in-order", action="store_true")
    arguments = parser.parse_args()
    result: ListTime | IdsUse | DriverRun
    if arguments.what == "list":
        result = measure_listing(
            arguments.endpoint_url, arguments.num_objects, arguments.delay_s, arguments.in_order
        )
    elif arguments.what == "ids":
        result = measure_ids(arguments.num_objects)
    else:
        result = measure_run(arguments.endpoint_url, arguments.num_objects, arguments.output)
    print(TypeAdapter(type(result)).dump_json(result).decode(), flush=True)


if __name__ == "__main__":
    main()

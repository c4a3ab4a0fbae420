"""The pair and the clips of a benchmark: real files, decoded as the pipeline decodes them."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.benchmark import step
from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.competition import Competition
from pipeline.benchmark.runs import Setting
from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo, list_videos
from pipeline.decoding.request import CaptionRequest
from pipeline.models.base import VideoLM
from pipeline.models.errors import PairError
from pipeline.models.loading import load_pair
from pipeline.records import DecodedClip, Failure
from pipeline.report.provenance import commit, hardware, shown_path
from pipeline.sample_world.corpus import CorpusPlan, read_facts, write_corpus
from pipeline.stages.decode import DecodeStage


class Bench:
    """A config's pair, and clips of the sample corpus of this seed.

    ``arguments`` are those of the command, for the record. Raises ModelLoadError or PairError.
    """

    def __init__(
        self,
        config: RunConfig,
        seed: int,
        calibration: str | None,
        arguments: Sequence[str],
        print_line: Callable[[str], None],
    ) -> None:
        self._seed = seed
        self._config = config
        target, draft = load_pair(config.models, config.storage)
        if draft is None:
            raise PairError("the benchmark needs a draft: name one by models.draft")
        self._target, self._draft = target, draft
        self._clips: list[BenchmarkClip] = []
        setting = Setting(
            commit=commit(),
            date=datetime.now(UTC).date().isoformat(),
            hardware=hardware(),
            command=shlex.join(["python", "jobs/benchmark.py", *arguments]),
            corpus_seed=seed,
            dtype=config.models.target.dtype,
            draft_dtype=config.models.draft.dtype if config.models.draft else "",
            num_threads=self._config.models.num_threads or 0,
            calibration=calibration and shown_path(calibration),
        )
        self.competition = Competition(
            target, draft, self._config.generation, self._config.prompt, setting, print_line
        )

    def clips(self, num_clips: int, batch: int) -> tuple[list[BenchmarkClip], list[BenchmarkClip]]:
        """The first clips of the corpus, and a batch of others to warm up on."""
        wanted = num_clips + batch
        if len(self._clips) < wanted:
            self._clips = list(self._made(wanted))
        return self._clips[:num_clips], self._clips[num_clips:wanted]

    def step_costs(self) -> step.StepCosts:
        """Of this pair, at the batch sizes of the step table."""
        clips, _ = self.clips(max(step.BATCHES), 1)
        return step.measure_steps(self._target, self._draft, clips, self._config.prompt)

    def _made(self, num_clips: int) -> Iterator[BenchmarkClip]:
        with tempfile.TemporaryDirectory(prefix="lvspec-bench-") as folder:
            corpus = Path(folder)
            for _ in write_corpus(corpus, CorpusPlan(num_clips, seed=self._seed)):
                pass
            config = self._config.model_copy(
                update={"input": self._config.input.model_copy(update={"uri": f"{folder}/videos"})}
            )
            truth = read_facts(corpus)
            with DecodeStage(config) as decode:
                for video in list_videos(config.input, config.storage):
                    for clip in decode(PlannedVideo(video)):
                        if isinstance(clip, Failure):
                            raise ValueError(f"{video.uri}: {clip.message}")
                        facts = truth[video.uri.rpartition("/")[2]]
                        request = _request(clip, config, self._target, self._draft)
                        yield BenchmarkClip(request, clip, facts)


def _request(
    clip: DecodedClip, config: RunConfig, target: VideoLM, draft: VideoLM
) -> CaptionRequest:
    return CaptionRequest(
        clip.clip_id, target.prepare(clip, config.prompt), draft.prepare(clip, config.prompt)
    )

"""The reference runner: decode and caption in one process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo
from pipeline.records import CaptionerTiming, DecodedClip, Failure, Outcome
from pipeline.stages.batching import clips_per_call
from pipeline.stages.caption import CaptionStage
from pipeline.stages.decode import DecodeStage


def caption_locally(
    config: RunConfig,
    videos: Iterable[PlannedVideo],
    load: Callable[[RunConfig], CaptionStage] = CaptionStage.load,
) -> Iterator[Outcome | CaptionerTiming]:
    """Decode and caption in this process, in order. ``load`` gives the stage with its models."""
    caption = load(config)
    waiting: list[DecodedClip] = []
    with DecodeStage(config) as decode:
        for planned in videos:
            for outcome in decode(planned):
                if isinstance(outcome, Failure):
                    yield outcome
                    continue
                waiting.append(outcome)
                if len(waiting) == clips_per_call(config):
                    yield from caption(waiting)
                    waiting = []
        yield from caption(waiting)

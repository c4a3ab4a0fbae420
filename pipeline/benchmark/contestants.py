"""What takes turns in the benchmark: something that captions clips and says what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.runs import ClipRun
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.records import Caption


class Contestant(Protocol):
    """A method ready to run at one batch size."""

    def caption(self, clips: Sequence[BenchmarkClip], first: int) -> list[ClipRun]:
        """Caption the clips, which are numbers ``first``, ``first + 1``, ... of the part."""


@dataclass(frozen=True, slots=True, eq=False)
class EngineContestant:
    """One of our own methods. ``draft_alone`` gives the engine the draft's prompt to caption."""

    engine: CaptionEngine
    draft_alone: bool = False

    def caption(self, clips: Sequence[BenchmarkClip], first: int) -> list[ClipRun]:
        """Caption; see Contestant. What the engine does between rows is shared out evenly."""
        requests = [self._request(clip.request) for clip in clips]
        started = perf_counter()
        captions = self.engine.caption(requests)
        wall_s = perf_counter() - started
        accounted_s = sum(c.stats.prefill_s + c.stats.decode_s for c in captions)
        rest_s = (wall_s - accounted_s) / len(clips)
        return [_run(first + i, caption, rest_s) for i, caption in enumerate(captions)]

    def _request(self, request: CaptionRequest) -> CaptionRequest:
        if not self.draft_alone:
            return request
        if request.draft is None:
            raise ValueError("there is no draft model")
        return replace(request, target=request.draft, draft=None)


def _run(clip: int, caption: Caption, rest_s: float) -> ClipRun:
    stats = caption.stats
    return ClipRun(
        clip=clip,
        text=caption.text,
        output_tokens=stats.output_tokens,
        wall_s=stats.prefill_s + stats.decode_s + rest_s,
        prefill_s=stats.prefill_s,
        decode_s=stats.decode_s,
        draft_s=stats.draft_s,
        verify_s=stats.verify_s,
        scoring_s=stats.scoring_s,
        target_steps=stats.target_steps,
        drafted_tokens=stats.drafted_tokens,
        accepted_tokens=stats.accepted_tokens,
        loose_tokens=stats.relaxed_tokens + stats.shifted_tokens,
        accepted_histogram=stats.accepted_histogram,
    )

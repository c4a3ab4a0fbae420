"""How far a run is: counts, rate and time left, as lines that read well in a terminal and a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pipeline.records import CaptionRecord, Failure


@dataclass(frozen=True, slots=True)
class ProgressCount:
    """Where a run stands. ``elapsed_s`` counts from its start, model loading included."""

    num_videos: int
    num_videos_done: int
    num_captions: int
    num_failures: int
    output_tokens: int
    elapsed_s: float

    @property
    def remaining_s(self) -> float | None:
        """Time left at the mean rate so far, s; None until a video is done."""
        if not self.num_videos_done:
            return None
        left = self.num_videos - self.num_videos_done
        return left * self.elapsed_s / self.num_videos_done

    def __str__(self) -> str:
        share = self.num_videos_done / self.num_videos if self.num_videos else 1.0
        rate = (self.num_captions + self.num_failures) / self.elapsed_s if self.elapsed_s else 0.0
        tokens_per_s = self.output_tokens / self.elapsed_s if self.elapsed_s else 0.0
        remaining = self.remaining_s
        return (
            f"{self.num_videos_done}/{self.num_videos} videos ({share:.0%})"
            f" | {self.num_captions} captions, {self.num_failures} failures"
            f" | {rate:.2f} clips/s, {tokens_per_s:.0f} tokens/s"
            f" | {format_duration(self.elapsed_s)} elapsed,"
            f" {'?' if remaining is None else format_duration(remaining)} left"
        )


class Progress:
    """Counts outcomes; inside ``with`` it prints a line every ``interval_s``, come what may.

    A run that waits for a GPU node or loads a large model is then not silent.
    """

    def __init__(
        self,
        num_videos: int,
        print_line: Callable[[str], None],
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_videos = num_videos
        self._print_line = print_line
        self._interval_s = interval_s
        self._clock = clock
        self._start_s = clock()
        self._num_videos_done = self._num_captions = self._num_failures = self._output_tokens = 0
        self._clips_left: dict[str, int] = {}
        self._ended = threading.Event()
        self._printer = threading.Thread(target=self._print_until_ended, daemon=True)

    def __enter__(self) -> Self:
        self._printer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._printer.join()
        self._print_line(str(self.count()))

    def add(self, outcome: CaptionRecord | Failure, num_done_before: int = 0) -> None:
        """Count one outcome of a video of which ``num_done_before`` clips were done earlier."""
        if isinstance(outcome, Failure):
            self._num_failures += 1
        else:
            self._num_captions += 1
            self._output_tokens += outcome.caption.stats.output_tokens
        spec = outcome.spec
        if spec is None:
            self._num_videos_done += 1
        else:
            video_id = spec.video.video_id
            left = self._clips_left.get(video_id, spec.num_clips - num_done_before) - 1
            if left > 0:
                self._clips_left[video_id] = left
            else:
                self._clips_left.pop(video_id, None)
                self._num_videos_done += 1

    def count(self) -> ProgressCount:
        """Where the run stands."""
        return ProgressCount(
            num_videos=self._num_videos,
            num_videos_done=self._num_videos_done,
            num_captions=self._num_captions,
            num_failures=self._num_failures,
            output_tokens=self._output_tokens,
            elapsed_s=self._clock() - self._start_s,
        )

    def _print_until_ended(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._print_line(str(self.count()))


class StepProgress:
    """A line now and then about one step whose items are counted; it has no thread of its own."""

    def __init__(
        self,
        label: str,
        total: int,
        print_line: Callable[[str], None],
        interval_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._print_line = print_line
        self._interval_s = interval_s
        self._clock = clock
        self._start_s = self._shown_s = clock()

    def show(self, num_done: int) -> None:
        """Tell that so many items are done; the last one is always told."""
        now_s = self._clock()
        if now_s - self._shown_s < self._interval_s and num_done != self._total:
            return
        self._shown_s = now_s
        elapsed_s = now_s - self._start_s
        left_s = elapsed_s * (self._total - num_done) / num_done
        self._print_line(
            f"{self._label}: {num_done}/{self._total}, "
            f"{format_duration(elapsed_s)} elapsed, {format_duration(left_s)} left"
        )


def format_duration(seconds: float) -> str:
    """``3 s``, ``4 min 05 s``, ``7 h 30 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

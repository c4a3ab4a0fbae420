"""How a video is cut into clips (pure): spans that cover it exactly, without overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from pipeline.config import ClipConfig, ClipPolicy
from pipeline.records import VideoInfo

Span: TypeAlias = tuple[float, float]
"""[start_s, end_s) in seconds from the video's first frame."""


def plan_spans(info: VideoInfo, config: ClipConfig, cuts_s: Sequence[float] = ()) -> list[Span]:
    """The clips of a video, in order. ``cuts_s`` are the scene changes (policy scenes only).

    No clip is shorter than ``min_clip_s`` or one frame, unless the video is.
    """
    shortest_s = max(config.min_clip_s, 1 / info.fps)
    match config.policy:
        case ClipPolicy.WHOLE:
            return [(0.0, info.duration_s)]
        case ClipPolicy.WINDOWS:
            num_windows = math.ceil(info.duration_s / config.window_s)
            cuts_s = [index * config.window_s for index in range(1, num_windows)]
            return spans_between(cuts_s, info.duration_s, shortest_s)
        case ClipPolicy.SCENES:
            return spans_between(cuts_s, info.duration_s, shortest_s)


def spans_between(cuts_s: Sequence[float], duration_s: float, shortest_s: float) -> list[Span]:
    """Spans between increasing cuts; one that would be too short joins its neighbour.

    The neighbour is the one after it, and for the last span the one before.
    """
    kept = [0.0]
    for cut_s in cuts_s:
        if cut_s - kept[-1] >= shortest_s and cut_s < duration_s:
            kept.append(cut_s)
    if len(kept) > 1 and duration_s - kept[-1] < shortest_s:
        kept.pop()
    return list(zip(kept, [*kept[1:], duration_s], strict=True))

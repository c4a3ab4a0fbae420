"""Which moments of a clip the model sees (pure arithmetic; frames are chosen in decode)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipeline.config import FrameSamplingConfig, SamplingPolicy


def sample_times(
    start_s: float, end_s: float, fps: float, config: FrameSamplingConfig
) -> npt.NDArray[np.float64]:
    """Times in [start_s, end_s), strictly increasing and evenly spread over the whole clip; [F] s.

    ``fps`` is the source's mean rate: never more times than the clip has frames, at least one.
    """
    duration_s = end_s - start_s
    if not duration_s > 0:
        raise ValueError(f"an empty span: [{start_s}, {end_s})")
    if config.policy is SamplingPolicy.UNIFORM:
        wanted = config.num_frames
    else:
        wanted = min(_count(duration_s * config.fps), config.max_frames)
    num_times = max(1, min(wanted, _count(duration_s * fps)))
    # The middle of each of F equal segments: no sample sits on a boundary between two frames
    # or two clips, where rounding would decide which picture it is.
    middles = np.arange(num_times, dtype=np.float64) + 0.5
    times: npt.NDArray[np.float64] = start_s + middles * (duration_s / num_times)
    return times


def _count(frames: float) -> int:
    """Whole frames in a real number of them, forgiving float noise."""
    return max(1, math.floor(frames + 1e-6))

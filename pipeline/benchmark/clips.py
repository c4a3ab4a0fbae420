"""A clip that is ready to decode, and what is true of it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decoding.request import CaptionRequest
from pipeline.records import DecodedClip
from pipeline.sample_world.facts import Facts


@dataclass(frozen=True, slots=True, eq=False)
class BenchmarkClip:
    """``clip`` is kept for peers that prepare their inputs themselves."""

    request: CaptionRequest
    clip: DecodedClip
    truth: Facts

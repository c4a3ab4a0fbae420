"""What the engine is asked: one clip's prompt, as the target and as the draft take it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decoding.session import ModelInputs


@dataclass(frozen=True, slots=True, eq=False)
class CaptionRequest:
    """One caption to decode. ``draft`` is None when there is no draft model.

    ``frames_digest`` is of the frames that the inputs were made of; it comes back with the answer,
    for who asked to compare.
    """

    clip_id: str
    target: ModelInputs
    draft: ModelInputs | None
    frames_digest: str = ""

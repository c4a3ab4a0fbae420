"""Whose fault a failure is: one table from every code that a failure row can carry to its kind.

The kind decides who may try again: nobody (poison), this run and the next ones (transient), or a
person who has mended something (ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class FailureKind(StrEnum):
    """Whose fault a failure is."""

    POISON = "poison"
    """The video itself: final until its content, and with it its etag, changes."""
    TRANSIENT = "transient"
    """The world: a store that refused, an object that moved under us, a limit that load may have
    reached. Worth another attempt, in the same run and in later ones."""
    OURS = "ours"
    """A stage, its process or its memory failed on this clip. Worth another attempt once the code
    or the machine is another, so never within a run."""


class CaptionFailureCode(StrEnum):
    """What the caption stage and its workers say; the codes of reading and decoding are those of
    ``pipeline.video.errors`` and ``pipeline.storage``."""

    CLIP_INPUT = "clip_input"
    """The model can't take the frames."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """The clip does not fit the memory even alone."""
    PREPARE_FAILED = "prepare_failed"
    """Making the model's inputs raised what it should not: a bug that this clip finds."""
    CAPTIONER_CRASH = "captioner_crash"
    """The captioner's process ended each time that it had this clip alone."""


_POISON = (
    *("empty", "not_a_video", "truncated", "corrupt", "no_video_stream", "unsupported_codec"),
    *("no_frames", "zero_duration", "too_large_px", "too_long", "out_of_memory"),
    *("unsupported_uri", CaptionFailureCode.CLIP_INPUT),
)
# an unreadable file may be half a network share; a timeout may be a machine that was busy
_TRANSIENT = ("not_found", "read_failed", "timeout", "access_denied", "object_changed")
_OURS = (
    "decoder_crashed",
    CaptionFailureCode.PROMPT_TOO_LONG,
    CaptionFailureCode.PREPARE_FAILED,
    CaptionFailureCode.CAPTIONER_CRASH,
)

KIND_OF_CODE: Mapping[str, FailureKind] = MappingProxyType(
    {
        str(code): kind
        for kind, codes in (
            (FailureKind.POISON, _POISON),
            (FailureKind.TRANSIENT, _TRANSIENT),
            (FailureKind.OURS, _OURS),
        )
        for code in codes
    }
)
"""Every code that a failure row can carry."""


def kind_of(code: str) -> FailureKind:
    """The kind of a code; KeyError of one that nothing here emits."""
    return KIND_OF_CODE[code]

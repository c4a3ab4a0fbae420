"""What rank 0 has the other ranks do: the calls of a DecodeSession (pipeline/decoding/session.py).

Pixels are not in them: every rank has the clip's frames (FrameStore), and its id is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decoding.session import ModelInputs, Taps


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SharedInputs(ModelInputs):
    """Inputs of a clip whose frames every rank has."""

    clip_id: str


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open session number ``session`` and close all that are not ``kept``."""

    session: int
    kept: tuple[int, ...]
    num_slots: int
    max_length: int
    taps: Taps


@dataclass(frozen=True, slots=True, eq=False)
class StartPrefill:
    """``inputs`` come without what the vision tower takes."""

    session: int
    slot: int
    inputs: SharedInputs


@dataclass(frozen=True, slots=True)
class ContinuePrefill:
    """Read on."""

    session: int
    slot: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Forward:
    """Append tokens to rows: the ids that rank 0 decided, and those that it drafted."""

    session: int
    slots: tuple[int, ...]
    token_ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class RollBack:
    """Drop a row's newest tokens."""

    session: int
    slot: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Release:
    """Free a slot."""

    session: int
    slot: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Answer what you have done so far (RankState)."""


@dataclass(frozen=True, slots=True)
class EndCall:
    """These clips are done, or given up."""

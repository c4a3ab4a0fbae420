"""What rank 0 has the other ranks do: the calls of a DecodeSession (pipeline/decoding/session.py).

In a job pixels are not in them: every rank has the clip's frames, and its id is enough. An
endpoint's clip comes with its question to rank 0 alone, which passes the pixels on.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.session import ModelInputs, Taps


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SharedInputs(ModelInputs):
    """Inputs of a clip whose frames every rank has."""

    clip_id: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CarriedInputs(ModelInputs):
    """Inputs that bring their pixels along: only rank 0 has the clip."""


@dataclass(frozen=True, slots=True, eq=False)
class AddPrefixCache:
    """Keep prefixes, number ``prefixes``, in this ``cache``: it is new, so empty."""

    prefixes: int
    cache: PrefixCache


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Open session number ``session`` and close all that are not ``kept``.

    ``prefixes`` is the number of its prefix cache, None without one; caches that are not among
    ``kept_prefixes`` are let go.
    """

    session: int
    kept: tuple[int, ...]
    num_slots: int
    max_length: int
    taps: Taps
    prefixes: int | None
    kept_prefixes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StartPrefill:
    """SharedInputs come without what the vision tower takes, CarriedInputs only if the ranks have
    read the video before."""

    session: int
    slot: int
    inputs: SharedInputs | CarriedInputs


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

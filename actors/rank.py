"""One rank of a gang as a Ray actor: a process with a GPU of its own and a part of the target."""

from __future__ import annotations

import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa
import ray

from actors import wire
from pipeline.config import CaptioningConfig, RunConfig
from pipeline.gang.link import FollowerLink, LeaderLink, LinkAddress
from pipeline.gang.world import Meeting

if TYPE_CHECKING:
    from pipeline.gang.member import FollowingRank, LeadingRank, RankZero
    from pipeline.gang.model import RankModel

_SECRET_BYTES = 32

ConfigT = TypeVar("ConfigT", bound=CaptioningConfig)
ZeroT = TypeVar("ZeroT", bound="RankZero")


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where a rank's process is."""

    node_id: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class RankStart:
    """How a rank's start went, s; ``video_s`` of encoding a blank clip, replicated and split."""

    load_s: float
    warm_up_s: float
    video_s: tuple[float, float]
    is_video_split: bool


class StartedRank(ABC, Generic[ConfigT, ZeroT]):
    """How every rank starts. ``ping`` is answered by a thread of its own while the model works.

    In order: place, (rank 0) listen, start. Raises what pipeline.gang raises.
    """

    def __init__(self, config: ConfigT, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._link: LeaderLink | None = None
        self._leading: ZeroT | None = None
        self._following: FollowingRank | None = None

    @abstractmethod
    def _lead(self, part: RankModel, link: LeaderLink) -> ZeroT:
        """Be rank 0."""

    def place(self) -> RankPlace:
        """Where this process is."""
        node_id = ray.get_runtime_context().get_node_id()
        return RankPlace(node_id, ray.util.get_node_ip_address(), os.getpid())

    def listen(self, host: str) -> tuple[LinkAddress, int]:
        """Rank 0: where the others reach it, and a free port for the collectives."""
        self._link = LeaderLink(host, secrets.token_bytes(_SECRET_BYTES))
        with socket.socket() as probe:
            probe.bind((host, 0))
            return self._link.address, int(probe.getsockname()[1])

    def start(self, meeting: Meeting, address: LinkAddress) -> RankStart:
        """Meet the others, load this rank's part (rank 0: and the draft), and use it once."""
        from pipeline.gang.member import FollowingRank, load_part  # torch
        from pipeline.video.blank_clip import blank_clip

        started = time.monotonic()
        part = load_part(self._config, self._rank, meeting)
        member: ZeroT | FollowingRank
        if self._link is not None:
            member = self._leading = self._lead(part, self._link)
        else:
            link = FollowerLink(self._rank, address)
            member = self._following = FollowingRank(self._config, part, link)
        loaded = time.monotonic()
        video_s = member.warm_up(blank_clip(self._config.video))
        return RankStart(
            load_s=loaded - started,
            warm_up_s=time.monotonic() - loaded,
            video_s=video_s,
            is_video_split=part.encode_video.is_split,
        )

    def ping(self) -> None:
        """Answer, as long as this process is alive and not stopped."""


class Rank(StartedRank[RunConfig, "LeadingRank"]):
    """A rank of a job's captioner: caption on rank 0 and follow on the others, the same clips."""

    def _lead(self, part: RankModel, link: LeaderLink) -> LeadingRank:
        from pipeline.gang.member import LeadingRank  # torch

        return LeadingRank(self._config, part, link)

    def caption(self, clips: pa.Table) -> pa.Table:
        """Rank 0: outcomes of the clips and the timing of this call."""
        assert self._leading is not None  # ``start`` comes first
        return wire.pack(self._leading.caption(list(wire.unpack(clips))))

    def follow(self, clips: pa.Table) -> None:
        """The others: do as rank 0 does, until it has ended."""
        assert self._following is not None  # ``start`` comes first
        self._following.follow(list(wire.unpack(clips)))

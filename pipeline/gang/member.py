"""What a rank of a gang does with clips: rank 0 captions them, the others follow.

Every rank is handed the same clips. Rank 0 captions with the same stage as a single process, and
what its target's sessions do is told to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pipeline.config import RunConfig
from pipeline.gang.link import FollowerLink, LeaderLink
from pipeline.gang.model import RankModel, ShardedVideoLM
from pipeline.gang.sessions import Follower, Leader
from pipeline.gang.world import Meeting, World
from pipeline.models.loading import load_draft, load_model, resolve_device
from pipeline.models.shard_loading import load_shard
from pipeline.models.warm_up import warm_up
from pipeline.records import CaptionerTiming, DecodedClip, Outcome
from pipeline.stages.caption import CaptionStage


def load_part(config: RunConfig, rank: int, meeting: Meeting) -> RankModel:
    """Meet the other ranks and load this one's part. Raises WorldError or ModelLoadError."""
    models = config.models
    if models.num_threads is not None:
        torch.set_num_threads(models.num_threads)
    device = resolve_device(models.device)
    world = World.join(rank, meeting, device, config.cluster.gang.network_interface)
    if world.size == 1:
        return RankModel(load_model(models.target, device, config.storage), world)
    return RankModel(load_shard(models.target, device, world, config.storage), world)


class LeadingRank:
    """Rank 0: it has the draft, decides every token, and lets the others know.

    Raises ModelLoadError or PairError for the draft and the calibration.
    """

    def __init__(self, config: RunConfig, part: RankModel, link: LeaderLink) -> None:
        gang = config.cluster.gang
        self.draft = load_draft(config.models, part.model, config.storage)
        link.accept(config.models.tensor_parallel_size - 1)
        self._prompt = config.prompt
        self._part = part
        self._leader = Leader(link, part.open_session, gang.check_rounds, gang.collective_timeout_s)
        self.target = ShardedVideoLM(part, self._leader)
        self._stage = CaptionStage.of_pair(config, self.target, self.draft)

    def warm_up(self, clip: DecodedClip) -> tuple[float, float]:
        """Use everything once; returns the seconds of a video's encoding, replicated and split."""
        seconds = self._part.encode_video.choose(
            self._part.model.prepare(clip, self._prompt).vision
        )
        try:
            warm_up(self.target, clip, self._prompt)
        finally:
            self.end_call()
        return seconds

    def caption(self, clips: Sequence[DecodedClip]) -> list[Outcome | CaptionerTiming]:
        """Outcomes of the clips, as CaptionStage gives them. Raises what it raises, LinkError if a
        rank is gone and RankDivergenceError if ranks do not agree."""
        try:
            return self._stage(clips)
        finally:
            self.end_call()

    def end_call(self) -> None:
        """Let the others return from ``follow``."""
        self._leader.end_call()


class FollowingRank:
    """A rank other than 0."""

    def __init__(self, config: RunConfig, part: RankModel, link: FollowerLink) -> None:
        self._prompt = config.prompt
        self._part = part
        self._follower = Follower(link, part.open_session)

    def warm_up(self, clip: DecodedClip) -> tuple[float, float]:
        """As rank 0 does."""
        seconds = self._part.encode_video.choose(
            self._part.model.prepare(clip, self._prompt).vision
        )
        self.follow([clip])
        return seconds

    def follow(self, clips: Sequence[DecodedClip]) -> None:
        """Do as rank 0 does with the same clips. Raises LinkError and the model's errors."""
        by_id = {clip.clip_id: clip for clip in clips}

        def vision_of(clip_id: str) -> Mapping[str, torch.Tensor]:
            return self._part.model.prepare(by_id[clip_id], self._prompt).vision

        self._follower.follow(vision_of)

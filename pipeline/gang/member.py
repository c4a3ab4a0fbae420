"""What a rank of a gang does with clips: rank 0 captions them, the others follow.

In a job every rank is handed the same clips, and rank 0 captions with the same stage as a single
process. In an endpoint rank 0 alone gets them, one by one, and answers with the same service as a
single process. What its target's sessions do is told to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pipeline.config import CaptioningConfig, EndpointConfig, ModelsConfig, RunConfig
from pipeline.gang.link import FollowerLink, LeaderLink
from pipeline.gang.model import LiveShardedVideoLM, RankModel, ShardedVideoLM
from pipeline.gang.sessions import Follower, Leader
from pipeline.gang.warm_up import warm_up
from pipeline.gang.world import Meeting, World
from pipeline.models.loading import load_draft, load_model, resolve_device
from pipeline.models.shard_loading import load_shard
from pipeline.records import CaptionerTiming, DecodedClip, Outcome
from pipeline.stages.caption import CaptionStage


def load_part(config: CaptioningConfig, rank: int, meeting: Meeting) -> RankModel:
    """Meet the other ranks and load this one's part. Raises WorldError or ModelLoadError."""
    models = config.models
    if models.num_threads is not None:
        torch.set_num_threads(models.num_threads)
    device = resolve_device(models.device)
    world = World.join(rank, meeting, device, config.cluster.gang.network_interface)
    if world.size == 1:
        return RankModel(load_model(models.target, device, config.storage), world)
    return RankModel(load_shard(models.target, device, world, config.storage), world)


class RankZero:
    """It has the draft, decides every token, and lets the others know.

    Raises ModelLoadError or PairError for the draft.
    """

    _sharded: type[ShardedVideoLM] = ShardedVideoLM

    def __init__(
        self, config: CaptioningConfig, models: ModelsConfig, part: RankModel, link: LeaderLink
    ) -> None:
        """``models`` are those of the config, with the draft that is to be loaded."""
        gang = config.cluster.gang
        self.draft = load_draft(models, part.model, config.storage)
        link.accept(models.tensor_parallel_size - 1)
        self._prompt = config.prompt
        self._part = part
        self._leader = Leader(link, part.open_session, gang.check_rounds, gang.collective_timeout_s)
        self.target = self._sharded(part, self._leader)

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

    def end_call(self) -> None:
        """Let the others return from ``follow``."""
        self._leader.end_call()


class LeadingRank(RankZero):
    """Rank 0 of a job's captioner. Raises PairError for the calibration, too."""

    def __init__(self, config: RunConfig, part: RankModel, link: LeaderLink) -> None:
        super().__init__(config, config.models, part, link)
        self._stage = CaptionStage.of_pair(config, self.target, self.draft)

    def caption(self, clips: Sequence[DecodedClip]) -> list[Outcome | CaptionerTiming]:
        """Outcomes of the clips, as CaptionStage gives them. Raises what it raises, LinkError if a
        rank is gone and RankDivergenceError if ranks do not agree."""
        try:
            return self._stage(clips)
        finally:
            self.end_call()


class AnsweringRank(RankZero):
    """Rank 0 of an endpoint's replica: ``target`` and ``draft`` are for its service.

    Who makes the service calls ``end_call`` once it has ended.
    """

    _sharded = LiveShardedVideoLM

    def __init__(self, config: EndpointConfig, part: RankModel, link: LeaderLink) -> None:
        models = config.models.model_copy(update={"draft": config.effective_draft})
        super().__init__(config, models, part, link)


class FollowingRank:
    """A rank other than 0."""

    def __init__(self, config: CaptioningConfig, part: RankModel, link: FollowerLink) -> None:
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
        """Do as rank 0 does, in a job with the same clips.

        Raises LinkError, RankDivergenceError and the model's errors.
        """
        by_id = {clip.clip_id: clip for clip in clips}

        def vision_of(clip_id: str) -> Mapping[str, torch.Tensor]:
            return self._part.model.prepare(by_id[clip_id], self._prompt).vision

        self._follower.follow(vision_of)

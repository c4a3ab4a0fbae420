"""Ranks of a gang as plain processes: real DeepSpeed, real connections, no Ray.

A test gives a function that runs on rank 0 beside the gang's target; what it returns comes back.
"""

from __future__ import annotations

import multiprocessing
import secrets
import socket
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from pipeline.config import CaptioningConfig
from pipeline.gang.link import FollowerLink, LeaderLink
from pipeline.gang.member import FollowingRank, LeadingRank, RankZero, load_part
from pipeline.gang.world import Meeting
from pipeline.records import DecodedClip

HOST = "127.0.0.1"
PATIENCE_S = 200.0

OnRankZero = Callable[[Any, Any, Sequence[DecodedClip]], Any]
"""Called once, with rank 0, the config and the clips, while the others follow; must be
importable."""


def run_gang(
    config: CaptioningConfig,
    clips: Sequence[DecodedClip],
    on_rank_zero: OnRankZero,
    rank_zero: type[RankZero] = LeadingRank,
) -> Any:
    """What ``on_rank_zero`` returns in a gang of config.models.tensor_parallel_size ranks.

    All warm up with the first clip; those of a LeadingRank then have all clips, others none.
    """
    size = config.models.tensor_parallel_size
    spawn = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        meeting = Meeting(HOST, probe.getsockname()[1], size, is_one_host=True, timeout_s=120.0)
    ours, theirs = spawn.Pipe()
    pipes = [spawn.Pipe() for _ in range(size - 1)]
    ranks = [
        spawn.Process(
            target=_lead,
            args=(
                *(config, meeting, clips, on_rank_zero, rank_zero),
                *(theirs, [near for near, _ in pipes]),
            ),
        )
    ]
    ranks += [
        spawn.Process(
            target=_follow,
            args=(config, rank, meeting, clips[0], clips if rank_zero is LeadingRank else (), far),
        )
        for rank, (_, far) in enumerate(pipes, start=1)
    ]
    try:
        for process in ranks:
            process.start()
        result = _result(ours, ranks)
        for process in ranks:
            process.join(PATIENCE_S)
            assert process.exitcode == 0, process
        return result
    finally:
        for process in ranks:
            process.kill()


def _result(connection: Connection, ranks: Sequence[BaseProcess]) -> Any:
    waited_s = 0.0
    while not connection.poll(0.5):
        waited_s += 0.5
        dead = [p.name for p in ranks if p.exitcode not in (None, 0)]
        assert not dead, f"{dead} ended with an error"
        assert waited_s < PATIENCE_S, "ranks hang"
    return connection.recv()


def _lead(config, meeting, clips, on_rank_zero, rank_zero, result, followers):
    torch.set_num_threads(1)
    link = LeaderLink(HOST, secrets.token_bytes(16))
    for follower in followers:
        follower.send(link.address)
    rank = rank_zero(config, load_part(config, 0, meeting), link)
    rank.warm_up(clips[0])
    try:
        result.send(on_rank_zero(rank, config, clips))
    finally:
        rank.end_call()


def _follow(config, rank, meeting, first_clip, clips, leader):
    torch.set_num_threads(1)
    address = leader.recv()
    part = load_part(config, rank, meeting)
    following = FollowingRank(config, part, FollowerLink(rank, address))
    following.warm_up(first_clip)
    following.follow(clips)

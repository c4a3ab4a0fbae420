"""A gang of ranks on a Ray cluster: placed, started, watched, and ended for sure.

One placement group, one actor a rank. What goes wrong with a rank (its process or node dies, it
hangs, it does not agree with the others) is a GangError; what the captioning itself raises on rank
0 while all ranks are well is raised as it is.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from actors.errors import GangError, WorkerError
from actors.rank import Rank, RankPlace, RankStart
from pipeline.config import CaptioningConfig, RunConfig
from pipeline.gang.link import LinkError
from pipeline.gang.state import RankDivergenceError
from pipeline.gang.world import Meeting
from pipeline.models.errors import ModelLoadError, PairError

_LOG = logging.getLogger(__name__)
HEALTH = "health"
"""Concurrency group of what a rank answers while it works."""
ENDING_S = 10.0
"""For the other ranks to return once rank 0 has, and for a kill on another node, s."""
_MISSED_HEARTBEATS = 10

ConfigT = TypeVar("ConfigT", bound=CaptioningConfig)


class StartedGang(ABC, Generic[ConfigT]):
    """Ranks that hold one target together. ``close`` it; it is started when it is made.

    Raises WorkerError if there is no place for it, ModelLoadError or PairError if a rank can't load
    its models, GangError if a rank is lost while it starts.
    """

    def __init__(self, config: ConfigT) -> None:
        self._settings = config.cluster.gang
        self._ranks: list[ActorHandle[Any]] = []
        self._places: list[RankPlace] = []
        self._group = _reserve(config)
        try:
            self.starts = self._start(config)
        except BaseException:  # a Ctrl-C too: nothing may stay behind
            self.close()
            raise

    def close(self) -> None:
        """End all ranks and give their place back; a stopped process too, which no call reaches."""
        _kill(self._places)
        for rank in self._ranks:
            with suppress(RayError):
                ray.kill(rank)
        remove_placement_group(self._group)
        self._ranks, self._places = [], []

    @abstractmethod
    def _actor(self, config: ConfigT) -> Any:
        """The actor class of a rank; ``ping`` is in a concurrency group HEALTH."""

    def _start(self, config: ConfigT) -> list[RankStart]:
        size = config.models.tensor_parallel_size
        actor = self._actor(config)
        cpus, gpus = _of_a_rank(config)
        self._ranks = [
            actor.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=0,  # a rank alone is of no use: the gang starts anew
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=index
                ),
            ).remote(config, index)
            for index in range(size)
        ]
        placing = [rank.place.remote() for rank in self._ranks]
        self._places = self._watch(placing, self._settings.start_timeout_s)
        host = self._places[0].host
        address, port = self._watch([self._ranks[0].listen.remote(host)])[0]
        meeting = Meeting(
            host=host,
            port=port,
            size=size,
            is_one_host=len({place.node_id for place in self._places}) == 1,
            timeout_s=self._settings.collective_timeout_s,
        )
        starting = [rank.start.remote(meeting, address) for rank in self._ranks]
        starts: list[RankStart] = self._watch(starting, self._settings.start_timeout_s)
        _LOG.info("gang of %d ranks on %s: %s", size, {p.host for p in self._places}, starts[0])
        return starts

    def _watch(self, calls: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
        """Wait for a call of each rank, and see that every rank stays alive meanwhile."""
        started = time.monotonic()
        waiting = list(calls)
        own_error: Exception | None = None
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=self._settings.heartbeat_s)
            for call in done:
                rank = calls.index(call)
                error = _error_of(call)
                if _is_death(error):
                    raise self._lost(rank, "its process or node died") from error
                if isinstance(error, ModelLoadError | PairError):
                    raise error
                if error is not None and (rank > 0 or _is_of_the_gang(error)):
                    raise self._lost(rank, f"{type(error).__name__}: {error}") from error
                own_error = own_error or error
            if own_error is not None:
                self._check_others_ended(waiting, own_error)
                raise own_error
            if not done:
                if self._places:  # before, a process may not have started, and nobody can answer
                    self._check_heartbeats()
                if timeout_s is not None and time.monotonic() - started > timeout_s:
                    raise WorkerError(
                        f"ranks did not start within {timeout_s:.0f} s "
                        "(cluster.gang.start_timeout_s)"
                    )
        return ray.get(list(calls))

    def _check_others_ended(self, waiting: list[Any], own_error: Exception) -> None:
        """After an error on rank 0: the others return at once if all is well with them."""
        done = waiting
        if waiting:
            done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=ENDING_S)
        if len(done) < len(waiting) or any(_error_of(call) is not None for call in done):
            raise GangError(
                f"rank 0 failed ({type(own_error).__name__}: {own_error}) and another rank is dead "
                "or stuck"
            ) from own_error

    def _check_heartbeats(self) -> None:
        patience_s = _MISSED_HEARTBEATS * self._settings.heartbeat_s
        pings = [rank.ping.options(concurrency_group=HEALTH).remote() for rank in self._ranks]
        _, silent = ray.wait(pings, num_returns=len(pings), timeout=patience_s)
        for rank, ping in enumerate(pings):
            if ping in silent:
                raise self._lost(rank, f"it did not answer for {patience_s:.0f} s")
            if _is_death(error := _error_of(ping)):
                raise self._lost(rank, "its process or node died") from error

    def _lost(self, rank: int, why: str) -> GangError:
        host = self._places[rank].host if rank < len(self._places) else "a node unknown yet"
        return GangError(f"rank {rank} of {len(self._ranks)} on {host} is lost: {why}")


class Gang(StartedGang[RunConfig]):
    """A gang that captions a job's clips."""

    def caption(self, clips: pa.Table) -> pa.Table:
        """Outcomes of a table of clips. Raises GangError, and what captioning raises."""
        shared = ray.put(clips)  # each node fetches it once, its ranks read it there
        leader, *others = self._ranks
        calls = [leader.caption.remote(shared), *(rank.follow.remote(shared) for rank in others)]
        outcomes: pa.Table = self._watch(calls)[0]
        return outcomes

    def _actor(self, config: RunConfig) -> Any:
        return ray.remote(concurrency_groups={HEALTH: 1})(Rank)


def _reserve(config: CaptioningConfig) -> PlacementGroup:
    """Room for all ranks. Raises WorkerError that says what was asked for and what there is."""
    settings = config.cluster.gang
    cpus, gpus = _of_a_rank(config)
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    size = config.models.tensor_parallel_size
    group = placement_group([dict(bundle)] * size, strategy=settings.placement_strategy)
    try:
        ray.get(group.ready(), timeout=settings.start_timeout_s)
    except GetTimeoutError as error:
        remove_placement_group(group)
        raise WorkerError(
            f"no room for {size} ranks of {bundle} ({settings.placement_strategy}) within "
            f"{settings.start_timeout_s:.0f} s; free now: {ray.available_resources()}; ask for "
            "fewer (--tensor-parallel-size, cluster.captioner_cpus) or add nodes"
        ) from error
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def _of_a_rank(config: CaptioningConfig) -> tuple[float, float]:
    """CPUs and GPUs of one rank."""
    size = config.models.tensor_parallel_size
    return config.cluster.captioner_cpus / size, config.cluster.captioner_gpus / size


def _error_of(call: Any) -> Exception | None:
    """What a finished call raised: its own exception where there is one."""
    try:
        ray.get(call)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
    return None


def _is_death(error: Exception | None) -> bool:
    """Of a process or a node, or of the only copy of a result with it."""
    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


def _is_of_the_gang(error: Exception) -> bool:
    return isinstance(error, LinkError | RankDivergenceError)


def _kill(places: Sequence[RankPlace]) -> None:
    """SIGKILL ranks' processes, each on its node; a stopped one would not hear Ray."""
    kills = []
    for node_id in {place.node_id for place in places}:
        on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
        kill = ray.remote(_send_sigkill).options(
            num_cpus=0, scheduling_strategy=on_node, max_retries=0
        )
        kills.append(kill.remote([place.pid for place in places if place.node_id == node_id]))
    if kills:  # one that fails or takes too long: with its node, the processes are gone or lost
        ray.wait(kills, num_returns=len(kills), timeout=ENDING_S)


def _send_sigkill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

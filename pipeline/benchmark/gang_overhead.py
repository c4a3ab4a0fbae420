"""What captioning by a gang takes against captioning in one process, in turns on the same clips.

A gang of one rank shows what the leading rank adds; it has the target of the other side, so both
read the same weights. Of a gang of two, rank 0 is in this process and times what it waits for.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any

import torch

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.gang_memory import local_meeting
from pipeline.benchmark.gang_results import Overhead, RankTime
from pipeline.benchmark.interleaved import Print, rotated
from pipeline.benchmark.runs import ClipRun
from pipeline.config import RunConfig
from pipeline.gang import commands
from pipeline.gang.link import FollowerLink, LeaderLink, LinkError
from pipeline.gang.member import FollowingRank, LeadingRank, load_part
from pipeline.gang.model import RankModel
from pipeline.gang.world import Meeting, World
from pipeline.models.shard_loading import load_shard
from pipeline.models.transformers_model import TransformersVideoLM
from pipeline.progress import StepProgress
from pipeline.records import Caption, CaptionerTiming, CaptionRecord, DecodedClip, Outcome
from pipeline.stages.caption import CaptionStage

_HOST = "127.0.0.1"
_IN_PROCESS, _GANG = "in process", "gang"
_SECRET_BYTES = 32
_ENDING_S = 10.0
DECODE, PREFILL = "decode", "prefill"
LINK, LAYERS, LOGITS, COMPARE = "commands", "sums in layers", "logits", "comparing states"


class Stopwatch:
    """Seconds and calls by phase of the work and by what was done."""

    def __init__(self) -> None:
        self.phase = PREFILL
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._busy = False

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Count the block's time, unless it is part of something that is timed already."""
        if self._busy:
            yield
            return
        self._busy = True
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[self.phase, what] += perf_counter() - started
            self.calls[self.phase, what] += 1
            self._busy = False

    def times(self) -> tuple[RankTime, ...]:
        """What was counted."""
        return tuple(
            RankTime(phase, what, seconds, self.calls[phase, what])
            for (phase, what), seconds in sorted(self.seconds.items())
        )

    def reset(self) -> None:
        """Forget what was counted."""
        self.seconds.clear()
        self.calls.clear()


class TimedWorld(World):
    """A world that times its collectives; waiting for the other ranks is part of that."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        super().__init__(rank, size)
        self.watch = Stopwatch()

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """As World's."""
        with self.watch.timing(LAYERS):
            return super().all_reduce(tensor)

    def join_columns(self, part: torch.Tensor) -> torch.Tensor:
        """As World's."""
        with self.watch.timing(LOGITS):
            return super().join_columns(part)


class TimedLink(LeaderLink):
    """A link that times what it tells, and so knows the phase of the work."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__(_HOST, secrets.token_bytes(_SECRET_BYTES))
        self._watch = watch

    def tell(self, command: object) -> None:
        """As LeaderLink's."""
        if isinstance(command, commands.Forward):
            self._watch.phase = DECODE
        elif isinstance(command, commands.StartPrefill | commands.ContinuePrefill):
            self._watch.phase = PREFILL
        with self._watch.timing(LINK):
            super().tell(command)

    def hear(self, timeout_s: float) -> dict[int, Any]:
        """As LeaderLink's."""
        with self._watch.timing(COMPARE):
            return super().hear(timeout_s)


@dataclass(frozen=True, slots=True)
class StageContestant:
    """A caption stage, or what captions like one, that takes turns."""

    caption_clips: Callable[[Sequence[DecodedClip]], list[Outcome | CaptionerTiming]]

    def caption(self, clips: Sequence[BenchmarkClip], first: int) -> list[ClipRun]:
        """Caption; see Contestant. Raises ValueError if a clip has no caption."""
        started = perf_counter()
        outcomes = self.caption_clips([clip.clip for clip in clips])
        wall_s = perf_counter() - started
        captions = {o.clip_id: o.caption for o in outcomes if isinstance(o, CaptionRecord)}
        if len(captions) < len(clips):
            raise ValueError(f"{len(clips) - len(captions)} clips have no caption: {outcomes}")
        return [
            _run(first + i, captions[clip.clip.clip_id], wall_s / len(clips))
            for i, clip in enumerate(clips)
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method at a batch size, on clips that a loaded pair captions in process and by a gang."""

    method: str
    config: RunConfig
    target: TransformersVideoLM
    draft: TransformersVideoLM
    clips: Sequence[BenchmarkClip]
    warm_up: Sequence[BenchmarkClip]
    print_line: Print

    def with_one_rank(self) -> Overhead:
        """A gang without followers, on the same target."""
        link = LeaderLink(_HOST, secrets.token_bytes(_SECRET_BYTES))
        try:
            gang = LeadingRank(self.config, RankModel(self.target, World()), link)
            return self._in_turn(gang, 1, None)
        finally:
            link.close()

    def with_several(self, ranks: RanksHere) -> Overhead:
        """A gang of real ranks."""
        config = ranks.config_of(self.config)
        with ranks.leading(config) as gang:
            return self._in_turn(gang, ranks.size, ranks.watch)

    def _in_turn(self, gang: LeadingRank, num_ranks: int, watch: Stopwatch | None) -> Overhead:
        batch = self.config.generation.max_num_seqs
        stage = CaptionStage.of_pair(self.config, self.target, self.draft)
        sides = {_IN_PROCESS: StageContestant(stage), _GANG: StageContestant(gang.caption)}
        for side in sides.values():
            side.caption(self.warm_up, 0)
        if watch is not None:
            watch.reset()
        runs: dict[str, list[ClipRun]] = {name: [] for name in sides}
        label = f"overhead, {num_ranks} rank(s), {self.method}, batch {batch}, clips"
        progress = StepProgress(label, len(self.clips), self.print_line)
        # Turns as short as they can be: the machine's other work should meet both sides alike.
        for turn, start in enumerate(range(0, len(self.clips), batch)):
            clips = self.clips[start : start + batch]
            for name in rotated(list(sides), turn):
                runs[name] += sides[name].caption(clips, start)
            progress.show(start + len(clips))
        times = watch.times() if watch is not None else ()
        in_process, by_gang = tuple(runs[_IN_PROCESS]), tuple(runs[_GANG])
        return Overhead(num_ranks, self.method, batch, in_process, by_gang, times)


class RanksHere:
    """Rank 0 of a gang in this process and the others in processes of their own; ``close`` it.

    They load the target once; each method then has links of its own. ``clips`` are all that they
    will ever caption.
    """

    def __init__(self, config: RunConfig, size: int, clips: Sequence[DecodedClip]) -> None:
        self.size = size
        meeting = local_meeting(size)
        spawn = get_context("spawn")
        self._followers: list[tuple[BaseProcess, Connection[Any, Any]]] = []
        config = self.config_of(config)
        for rank in range(1, size):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=_follow_all, args=(config, rank, meeting, clips, theirs), daemon=True
            )
            process.start()
            self._followers.append((process, ours))
        device = torch.device("cpu")
        world = TimedWorld.join(0, meeting, device)
        assert isinstance(world, TimedWorld)  # a class method makes its own class
        self.watch = world.watch
        self._part = RankModel(load_shard(config.models.target, device, world), world)

    def config_of(self, config: RunConfig) -> RunConfig:
        """The config for so many ranks."""
        models = config.models.model_copy(update={"tensor_parallel_size": self.size})
        return config.model_copy(update={"models": models})

    @contextmanager
    def leading(self, config: RunConfig) -> Iterator[LeadingRank]:
        """A gang for one method; the followers are free again afterwards."""
        link = TimedLink(self.watch)
        for _, pipe in self._followers:
            pipe.send((config, link.address))
        try:
            yield LeadingRank(config, self._part, link)
        finally:
            link.close()

    def close(self) -> None:
        """End the followers."""
        for process, pipe in self._followers:
            pipe.close()
            process.join(_ENDING_S)
            process.kill()


def _follow_all(
    config: RunConfig,
    rank: int,
    meeting: Meeting,
    clips: Sequence[DecodedClip],
    pipe: Connection[Any, Any],
) -> None:
    """Follow one leader after the other, until no more come."""
    part = load_part(config, rank, meeting)
    with suppress(EOFError):
        while True:
            own_config, address = pipe.recv()
            following = FollowingRank(own_config, part, FollowerLink(rank, address))
            with suppress(LinkError):  # that is how a leader ends
                while True:
                    following.follow(clips)


def _run(clip: int, caption: Caption, wall_s: float) -> ClipRun:
    stats = caption.stats
    return ClipRun(
        clip=clip,
        text=caption.text,
        output_tokens=stats.output_tokens,
        wall_s=wall_s,
        prefill_s=stats.prefill_s,
        decode_s=stats.decode_s,
        draft_s=stats.draft_s,
        verify_s=stats.verify_s,
        scoring_s=stats.scoring_s,
        target_steps=stats.target_steps,
        drafted_tokens=stats.drafted_tokens,
        accepted_tokens=stats.accepted_tokens,
    )

"""Memory that loading takes: real ranks in processes of their own, each watched by the kernel.

RSS is what a process has in memory: its own pages (anonymous), pages of mapped files, and memory
that it shares (between ranks). The kernel keeps the peak of their sum (VmHWM); a thread that looks
every few milliseconds tells how the parts share in it.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from pipeline.benchmark.gang_checkpoint import shard_bytes, tensor_shapes
from pipeline.config import ModelConfig
from pipeline.gang.world import Meeting, World
from pipeline.models.loading import load_model
from pipeline.models.shard_loading import load_shard

ALLOWANCE_BYTES = 1 << 30
"""What loading may take beside the shard and the largest tensor: buffers, and mapped pages."""
_ITEMSIZE = 2  # bfloat16
_SAMPLE_S = 0.005
_MEETING_TIMEOUT_S = 300.0
_RESET_PEAK = "5"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Rss:
    """Memory of a process, bytes."""

    anonymous: int
    file: int
    shared: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.anonymous + self.file + self.shared

    @classmethod
    def now(cls) -> Rss:
        """Of this process."""
        status = _status()
        return cls(status["RssAnon"], status["RssFile"], status["RssShmem"])


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What one process took to load, bytes, and how long, s.

    ``peak`` is the kernel's high-water mark of the total; ``most_anonymous`` and ``most_file`` are
    the most that was seen of each, not necessarily at once. ``held`` is what it has to hold.
    """

    before: Rss
    peak: int
    most_anonymous: int
    most_file: int
    after: Rss
    held: int
    largest: int
    load_s: float

    @property
    def growth(self) -> int:
        """The peak above what the process had before, bytes."""
        return self.peak - self.before.total

    def bound(self, allowance: int = ALLOWANCE_BYTES) -> int:
        """The most that ``growth`` may be, bytes."""
        return self.held + self.largest + allowance

    def is_within(self, allowance: int = ALLOWANCE_BYTES) -> bool:
        """Whether loading kept to the bound."""
        return self.growth <= self.bound(allowance)


class PeakMemory:
    """Watches this process from entering to leaving."""

    def __init__(self) -> None:
        self.before = self.after = Rss(0, 0, 0)
        self.peak = self.most_anonymous = self.most_file = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        self.before = Rss.now()
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.peak = _status()["VmHWM"]
        self.after = Rss.now()
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            rss = Rss.now()
            self.most_anonymous = max(self.most_anonymous, rss.anonymous)
            self.most_file = max(self.most_file, rss.file)


def measure_shards(folder: Path, num_ranks: int) -> list[MemoryUse]:
    """Load a checkpoint by so many ranks at once, on CPU in bfloat16.

    Raises what loading raises.
    """
    meeting = local_meeting(num_ranks)
    return in_processes(_load_shard, [(folder, rank, meeting) for rank in range(num_ranks)])


def measure_whole(folder: Path) -> MemoryUse:
    """Load a checkpoint by transformers' from_pretrained, in one process, and read it once.

    It maps the files; a page counts as memory when it is first used. Raises what loading raises.
    """
    return in_processes(_load_whole, [(folder,)])[0]


def local_meeting(num_ranks: int, timeout_s: float = _MEETING_TIMEOUT_S) -> Meeting:
    """Where ranks on this machine meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return Meeting("127.0.0.1", port, num_ranks, is_one_host=True, timeout_s=timeout_s)


def in_processes(function: Callable[..., Result], calls: list[tuple[Any, ...]]) -> list[Result]:
    """Call a function once in each of so many new processes, all at the same time.

    Raises the first error; the other processes are ended then, as they wait for one another.
    """
    pool = ProcessPoolExecutor(len(calls), get_context("spawn"))
    try:
        futures: list[Future[Result]] = [pool.submit(function, *call) for call in calls]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return [future.result() for future in futures]
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown()


def _load_shard(folder: Path, rank: int, meeting: Meeting) -> MemoryUse:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    world = World.join(rank, meeting, device)
    loaded = _measured(
        lambda: load_shard(ModelConfig(name=str(folder)), device, world), folder, meeting.size
    )
    world.all_reduce(torch.zeros(1))  # nobody leaves while another one is still loading
    return loaded


def _load_whole(folder: Path) -> MemoryUse:
    torch.set_num_threads(1)
    config = ModelConfig(name=str(folder))

    def load_and_read() -> object:
        model = load_model(config, torch.device("cpu"))
        for parameter in model.model.parameters():
            parameter.sum()
        return model

    return _measured(load_and_read, folder, 1)


def _measured(load: Callable[[], object], folder: Path, num_ranks: int) -> MemoryUse:
    with PeakMemory() as memory:
        started = perf_counter()
        model = load()
        load_s = perf_counter() - started
    del model
    return MemoryUse(
        before=memory.before,
        peak=memory.peak,
        most_anonymous=memory.most_anonymous,
        most_file=memory.most_file,
        after=memory.after,
        held=shard_bytes(folder, num_ranks, _ITEMSIZE),
        largest=_ITEMSIZE * max(math.prod(shape) for _, shape in tensor_shapes(folder)),
        load_s=load_s,
    )


def _status() -> dict[str, int]:
    """The sizes of /proc/self/status, bytes."""
    sizes = {}
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[name] = 1024 * int(value.removesuffix(" kB"))
    return sizes

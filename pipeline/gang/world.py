"""The ranks of one gang: where this process stands among them, and what they compute together.

One torch.distributed world is one gang: DeepSpeed's shared-memory all-reduce ignores groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist


class WorldError(RuntimeError):
    """The ranks could not meet: no such interface, a port in use, or a rank that did not come."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks of a gang meet, the same for all of them: rank 0's address and a free port.

    ``is_one_host``: all of them run on one machine and can share memory. ``timeout_s`` bounds
    meeting and every collective that goes over the network.
    """

    host: str
    port: int
    size: int
    is_one_host: bool
    timeout_s: float


class World:
    """A rank's view of its gang. A gang of one needs no library and no network."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._all_reduce_op = None

    @classmethod
    def join(
        cls, rank: int, meeting: Meeting, device: torch.device, interface: str | None = None
    ) -> World:
        """Meet the other ranks; returns once all have come.

        ``interface`` is the network interface between hosts, None the one that the way to the
        meeting leaves by. Collectives run on NCCL for a CUDA device, else on Gloo and, on one host,
        on DeepSpeed's shared memory, which is compiled when a machine first uses it (about a
        minute; needs g++). Raises WorldError.
        """
        world = cls(rank, meeting.size)
        if meeting.size == 1:
            return world
        interface = interface or _interface_towards(meeting.host)
        os.environ.update(
            RANK=str(rank),
            WORLD_SIZE=str(meeting.size),
            LOCAL_RANK="0",  # a rank's process sees its own GPU alone
            LOCAL_SIZE=str(meeting.size if meeting.is_one_host else 1),
            MASTER_ADDR=meeting.host,
            MASTER_PORT=str(meeting.port),
            GLOO_SOCKET_IFNAME=interface,
            NCCL_SOCKET_IFNAME=interface,
        )
        import deepspeed  # seconds to import: only a gang of several does
        import deepspeed.comm.comm as deepspeed_comm

        try:
            deepspeed.init_distributed(
                "nccl" if device.type == "cuda" else "gloo",
                auto_mpi_discovery=False,
                verbose=False,
                timeout=timedelta(seconds=meeting.timeout_s),
                init_method=f"tcp://{meeting.host}:{meeting.port}",
                rank=rank,
                world_size=meeting.size,
            )
        except (RuntimeError, ValueError, dist.DistError) as error:
            raise WorldError(
                f"rank {rank} of {meeting.size} could not meet the others at {meeting.host}:"
                f"{meeting.port} over {interface} within {meeting.timeout_s:.0f} s ({error})"
            ) from error
        if not meeting.is_one_host:  # its shared memory would be looked for, and not be there
            deepspeed_comm.cdb.shm_vector_kernel_level = 0
        world._all_reduce_op = deepspeed.comm.inference_all_reduce
        if meeting.is_one_host:
            # A sum of all ranks: each of them has mapped every buffer by now.
            world.all_reduce(torch.zeros(1, device=device))
            _unname_shared_memory(meeting, rank)
        return world

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place; bit for bit the same on all of them."""
        if self._all_reduce_op is not None:
            self._all_reduce_op(tensor)
        return tensor

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over ranks, in place."""
        return tensor if self.size == 1 else self.all_reduce(tensor).div_(self.size)

    def join_columns(self, part: torch.Tensor) -> torch.Tensor:
        """Parts [R, N] of all ranks side by side, [R, size * N]."""
        if self.size == 1:
            return part
        # Adding zeros is exact, and one kind of collective is tuned once: over shared memory a sum
        # takes a hundredth of the time that Gloo takes to gather.
        rows, columns = part.shape
        whole = part.new_zeros(rows, self.size * columns)
        whole[:, self.rank * columns : (self.rank + 1) * columns] = part
        return self.all_reduce(whole)

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of ``count`` items are this rank's (or another's): neighbours, evenly dealt out."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def leave(self) -> None:
        """Close the connections to the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _unname_shared_memory(meeting: Meeting, rank: int) -> None:
    """Let this rank's buffer go with its last process; DeepSpeed never removes it (66 MiB)."""
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{meeting.host}_{meeting.port}_{rank}"
    Path("/dev/shm", name).unlink(missing_ok=True)


def _interface_towards(host: str) -> str:
    """The interface of the address that this machine has on the way to a host.

    Rank 0's own address is its own: there it is the interface that has it.
    """
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError as error:
            raise WorldError(f"no way to {host} from here ({error})") from error
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return name
    raise WorldError(
        f"no network interface has the address {own}; name one by cluster.gang.network_interface"
    )

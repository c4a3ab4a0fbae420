"""The control line of a gang: what rank 0 tells the others to do, and their short answers.

Commands are a few hundred bytes and many; over Gloo each would cost as much as a decoded token, so
they go over connections of their own. A peer that dies ends its connection, which is noticed at
once, where a collective would wait.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any


class LinkError(RuntimeError):
    """A rank is gone, or does not answer in time."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where rank 0 listens, and the secret that lets a rank in."""

    host: str
    port: int
    secret: bytes = field(repr=False)


class LeaderLink:
    """Rank 0's end: it speaks to all others at once, and can hear each.

    Followers are let in by ``accept``. Without any, telling costs nothing.
    """

    def __init__(self, host: str, secret: bytes) -> None:
        self._listener = Listener((host, 0), backlog=64, authkey=secret)
        self.address = LinkAddress(host, self._listener.address[1], secret)
        self._followers: dict[int, Connection[Any, Any]] = {}
        self._unsent: list[object] = []

    def accept(self, num_followers: int) -> None:
        """Wait for the others. Who waits for this rank bounds the time."""
        while len(self._followers) < num_followers:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, OSError, EOFError):
                continue  # a stranger, or a port scan: it is the ranks that are waited for
            self._followers[int(connection.recv())] = connection

    def tell(self, command: object) -> None:
        """Have every other rank do this now, after what was put off. Raises LinkError."""
        if not self._followers:
            return
        self._unsent.append(command)
        # Plain pickle: a connection's own would share a tensor's memory, which works on one host.
        message = pickle.dumps(self._unsent, protocol=5)
        self._unsent.clear()
        for rank, follower in self._followers.items():
            try:
                follower.send_bytes(message)
            except OSError as error:
                raise LinkError(f"rank {rank} is gone ({error})") from error

    def put_off(self, command: object) -> None:
        """Have every other rank do this before whatever they are told next."""
        if self._followers:
            self._unsent.append(command)

    def hear(self, timeout_s: float) -> dict[int, Any]:
        """One answer of each other rank. Raises LinkError."""
        answers = {}
        for rank, follower in self._followers.items():
            try:
                if not follower.poll(timeout_s):
                    raise LinkError(f"rank {rank} did not answer within {timeout_s:.0f} s")
                answers[rank] = follower.recv()
            except (OSError, EOFError) as error:
                raise LinkError(
                    f"rank {rank} is gone ({error or 'its connection ended'})"
                ) from error
        return answers

    def close(self) -> None:
        """Hang up."""
        for follower in self._followers.values():
            follower.close()
        self._listener.close()


class FollowerLink:
    """Another rank's end."""

    def __init__(self, rank: int, address: LinkAddress) -> None:
        self._connection = Client((address.host, address.port), authkey=address.secret)
        self._connection.send(rank)

    def commands(self) -> Iterable[object]:
        """What to do next, in order; waits for it. Raises LinkError when rank 0 is gone."""
        while True:
            try:
                message = self._connection.recv_bytes()
            except (OSError, EOFError) as error:
                raise LinkError("rank 0 is gone") from error
            yield from pickle.loads(message)

    def answer(self, message: object) -> None:
        """Tell rank 0. Raises LinkError."""
        try:
            self._connection.send(message)
        except OSError as error:
            raise LinkError("rank 0 is gone") from error

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

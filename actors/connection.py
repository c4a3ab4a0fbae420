"""How a driver comes to its Ray cluster."""

from __future__ import annotations

import logging
import os
import socket

import ray

from actors.errors import ClusterError

CONNECT_TIMEOUT_S = 20.0


def connect_to_ray(address: str | None) -> None:
    """Connect to a cluster, or start a local one. Raises ClusterError."""
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _knock(wanted)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise ClusterError(f"no Ray cluster answers at {wanted}: {error}") from error


def _knock(address: str) -> None:
    """Raise ConnectionError if nobody listens at ``host:port``: Ray would try on for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and `local` name no place
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:  # refused, timed out, no route, an unknown host
        raise ConnectionError(str(error)) from error

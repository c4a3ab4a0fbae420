"""A Ray driver in a process of its own.

In a test process that had been the driver of a Ray Data read, the actors of a later session ended
before they ran ("all references to the actor were removed", Ray 2.60; why was not found). Sessions
in processes of their own do not meet.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import ray


@contextmanager
def ray_driver(**how: Any) -> Iterator[ProcessPoolExecutor]:
    """Runs functions of modules in one process that has done `ray.init(**how)`."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_connect, initargs=(how,)) as driver:
        try:
            yield driver
        finally:
            driver.submit(ray.shutdown).result()


def _connect(how: dict[str, Any]) -> None:
    ray.init(**how)

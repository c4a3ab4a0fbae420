"""A Ray driver in a process of its own.

Ray names actors by job and a count, so two sessions of one process have actors of the same names,
and what the first one's handles let go of late ends the second one's actors before they run.
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

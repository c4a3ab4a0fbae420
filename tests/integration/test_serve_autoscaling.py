"""Replicas follow the load, 1 to 2 and back to 1, and no request notices."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from tests.endpoint_process import (
    PROMPT,
    Endpoint,
    good_videos,
    question,
    reference,
    started,
    wait_for,
)

NUM_CLIENTS = 6
SCALING = [
    *("--serving.replicas.max-replicas", 2, "--serving.replicas.target-ongoing-requests", 1),
    *("--serving.replicas.upscale-delay-s", 2, "--serving.replicas.downscale-delay-s", 5),
]


def replicas(endpoint: Endpoint) -> list[int]:
    """Their processes; not those that are about to be gone."""
    found = []
    for each in psutil.Process(endpoint.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ServeReplica" in " ".join(each.cmdline()):
                found.append(each.pid)
    return found


def test_replicas_come_and_go_without_a_failed_request(corpus: Path, tmp_path: Path) -> None:
    urls = good_videos(corpus)
    stop = threading.Event()
    first_seen: set[str] = set()

    def ask_on(number: int) -> list[str]:
        """A client in a closed loop: what did not work."""
        failed = []
        turn = 0
        with endpoint.http() as http:
            while not stop.is_set():
                url = urls[(number + turn) % len(urls)]
                body = {"messages": [question(url, f"{PROMPT} {number}.{turn}")]}
                answer = http.post("/v1/chat/completions", json=body)
                if answer.status_code == 200:
                    first_seen.add(answer.json()["id"])
                else:
                    failed.append(f"{answer.status_code}: {answer.text[:200]}")
                turn += 1
        return failed

    with started(tmp_path, *reference("ray", corpus), *SCALING) as endpoint:
        assert len(replicas(endpoint)) == 1
        with ThreadPoolExecutor(NUM_CLIENTS) as threads:
            asking = [threads.submit(ask_on, number) for number in range(NUM_CLIENTS)]
            try:
                wait_for(lambda: len(replicas(endpoint)) == 2, 180)
                many = len(first_seen)
                wait_for(lambda: len(first_seen) > many + 4 * NUM_CLIENTS, 180)
            finally:
                stop.set()
            failed = [words for each in asking for words in each.result()]
        stop.clear()
        # One client is enough for one replica: the other goes while somebody still asks.
        with ThreadPoolExecutor(1) as threads:
            asking = [threads.submit(ask_on, 0)]
            try:
                wait_for(lambda: len(replicas(endpoint)) == 1, 240)
            finally:
                stop.set()
            failed += asking[0].result()
        assert failed == []
        assert len(first_seen) > 4 * NUM_CLIENTS
        assert endpoint.stop() == 0

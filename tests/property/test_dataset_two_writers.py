"""Any interleaving of two committers: no clip twice, nothing lost, and somebody gets on."""

from __future__ import annotations

import threading
from collections import Counter

from dataset_rows import MemoryStorage, caption_of, clip, failure_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import OutputConfig
from pipeline.dataset.commit import Committer, SecondWriterError
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows, list_parts

LAYOUT = Layout.of("s3://out", "0123456789abcdef")
CLIPS = [clip(name) for name in "abcdef"]
FAILING = frozenset("bdf")


class Turns:
    """Lets threads through one storage operation at a time, in a given order of names."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: set[str] = set()
        self._allowed: str | None = None
        self._ended: set[str] = set()

    def gate(self, operation: str, uri: str) -> None:
        name = threading.current_thread().name
        with self._changed:
            self._waiting.add(name)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._allowed in (name, "all"))
            if self._allowed == name:
                self._allowed = None
            self._waiting.discard(name)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended.add(threading.current_thread().name)
            self._changed.notify_all()

    def step(self, name: str) -> None:
        """Let ``name`` do one operation and run on to its next one, or to its end."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._waiting or name in self._ended)
            if name in self._ended:
                return
            self._allowed = name
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._allowed is None)
            self._changed.wait_for(lambda: name in self._waiting or name in self._ended)

    def free(self) -> None:
        with self._changed:
            self._allowed = "all"
            self._changed.notify_all()


def write_everything(storage: MemoryStorage, run_id: str, rows_per_part: int) -> str:
    """A whole job: take over, make the rows that are missing, commit them."""
    output = OutputConfig(uri="s3://out", rows_per_part=rows_per_part)
    try:
        with Committer(storage, LAYOUT, output, run_id) as writer:
            for spec in CLIPS:
                if writer.done.has_clip(spec.video.video_id, spec.clip_id):
                    continue
                if spec.video.uri[-5] in FAILING:
                    writer.add_failure(failure_of(spec))
                else:
                    writer.add_caption(caption_of(spec))
    except SecondWriterError:
        return "stopped"
    return "finished"


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.sampled_from("AB"), max_size=40),
    rows_per_part=st.integers(1, 4),
    crash=st.booleans(),
)
def test_two_writers_in_any_order(order: list[str], rows_per_part: int, crash: bool) -> None:
    """The schedule stops each writer before each list and put; then all pauses end at once.

    With ``crash``, A never wakes up from its last pause until B has finished.
    """
    turns = Turns()
    storage = MemoryStorage(turns.gate)
    outcome: dict[str, str] = {}

    def run(name: str) -> None:
        try:
            outcome[name] = write_everything(storage, f"run-{name}", rows_per_part)
        finally:
            turns.end()

    threads = [threading.Thread(target=run, args=(name,), name=name, daemon=True) for name in "AB"]
    for thread in threads:
        thread.start()
    for name in order:
        turns.step(name)
    if crash:
        while "B" not in outcome:
            turns.step("B")
    turns.free()
    for thread in threads:
        thread.join()

    rows = Counter(
        row["clip_id"] for table in Table for row in iter_rows(storage, LAYOUT, table, ["clip_id"])
    )
    assert all(count == 1 for count in rows.values())
    assert "finished" in outcome.values()
    assert set(rows) == {spec.clip_id for spec in CLIPS}
    parts = list_parts(storage, LAYOUT)
    assert parts.captions == tuple(range(1, parts.last + 1))

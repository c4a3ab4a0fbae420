"""The commit protocol as a state machine: two writers over a storage that fails at any operation.

tests/property/test_dataset_two_writers.py interleaves two healthy writers; here each operation of a
writer may fail, lose its answer (and be sent again, as the S3 client does), end the writer's
process, or find that the other writer does something meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import BinaryIO
from unittest.mock import patch

from dataset_rows import MemoryStorage, caption_of, clip, failure_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.config import OutputConfig
from pipeline.dataset.commit import Committer, SecondWriterError
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows, list_parts
from pipeline.dataset.verify import verify
from pipeline.records import ClipSpec, VideoObject
from pipeline.storage import TransientStorageError

LAYOUT = Layout.of("s3://out", "0123456789abcdef")
CLIPS = tuple(clip(name) for name in "abcdefghijklmnop")
FAILING = frozenset("bdfhjlnp")


class Fate(Enum):
    """What becomes of one operation of a writer."""

    FINE = auto()
    FAILS = auto()  # nothing done, the attempts are used up
    LOST = auto()  # done, the answer lost, the attempts are used up
    SENT_AGAIN = auto()  # done, the answer lost, sent again
    KILLED_BEFORE = auto()
    KILLED_AFTER = auto()
    OTHER_STARTS = auto()  # the other writer takes over just before
    OTHER_COMMITS = auto()  # the other writer commits what it has just before
    OTHER_REPEATS = auto()  # the other writer takes over and makes the same rows just before


INTERFERENCE = frozenset({Fate.OTHER_STARTS, Fate.OTHER_COMMITS, Fate.OTHER_REPEATS})
FATES = st.lists(st.sampled_from([Fate.FINE] * 4 + list(Fate)), max_size=8)


class KilledError(BaseException):
    """The process ends here: nothing of it runs any more."""


class FlakyStorage:
    """A writer's way to the objects that all share."""

    def __init__(self, shared: MemoryStorage, interfere: Callable[[Fate], None]) -> None:
        self._shared = shared
        self._interfere = interfere
        self.fates: list[Fate] = []

    def list(self, uri: str) -> Iterator[VideoObject]:
        yield from self._do(lambda: list(self._shared.list(uri)))

    def stat(self, uri: str) -> VideoObject:
        return self._do(lambda: self._shared.stat(uri))

    def open(self, uri: str, etag: str | None = None) -> BinaryIO:
        return self._do(lambda: self._shared.open(uri, etag))

    def read_bytes(self, uri: str) -> bytes:
        return self._do(lambda: self._shared.read_bytes(uri))

    def put_if_absent(self, uri: str, data: bytes) -> None:
        self._do(lambda: self._shared.put_if_absent(uri, data))

    def _do(self, operation):
        fate = self.fates.pop(0) if self.fates else Fate.FINE
        if fate is Fate.KILLED_BEFORE:
            raise KilledError
        if fate is Fate.FAILS:
            raise TransientStorageError("s3://out", "no answer")
        if fate in INTERFERENCE:
            self._interfere(fate)
        result = operation()
        if fate is Fate.KILLED_AFTER:
            raise KilledError
        if fate is Fate.LOST:
            raise TransientStorageError("s3://out", "no answer")
        if fate is Fate.SENT_AGAIN:
            return operation()
        return result


class LateTimer:
    """A timer that the machine fires, not a clock."""

    def __init__(self, interval: float, function: Callable[[], None]) -> None:
        self.function = function
        self.is_due = False

    def start(self) -> None:
        self.is_due = True

    def cancel(self) -> None:
        self.is_due = False


class Writers(RuleBasedStateMachine):
    """Names are A and B; a dead writer is no entry of ``running``."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = MemoryStorage()
        self.seen: dict[str, bytes] = {}
        self.storages = {
            name: FlakyStorage(self.shared, self._interference_with(name)) for name in "AB"
        }
        self.running: dict[str, Committer] = {}
        self.added: dict[str, list[str]] = {"A": [], "B": []}
        self.num_starts = 0
        self.timer_patch = patch("pipeline.dataset.commit.threading.Timer", LateTimer)
        self.timer_patch.start()

    @initialize(rows_per_part=st.integers(1, 6))
    def choose(self, rows_per_part: int) -> None:
        self.output = OutputConfig(uri="s3://out", rows_per_part=rows_per_part)
        self.start("A", [])

    @rule(name=st.sampled_from("AB"), fates=FATES)
    def start(self, name: str, fates: list[Fate]) -> None:
        """A (re)start; an earlier process of this name is killed."""
        self.running.pop(name, None)
        self.added[name] = []
        self.num_starts += 1

        def take_over() -> None:
            run_id = f"run-{self.num_starts}"
            self.running[name] = Committer(self.storages[name], LAYOUT, self.output, run_id)

        self._under(name, fates, take_over)

    @rule(name=st.sampled_from("AB"), spec=st.sampled_from(CLIPS), fates=FATES)
    def add(self, name: str, spec: ClipSpec, fates: list[Fate]) -> None:
        """A row, which may come twice."""
        if (writer := self.running.get(name)) is None:
            return

        def add() -> None:
            if writer.done.has_clip(spec.video.video_id, spec.clip_id):
                assert not add_row(writer, spec)
                return
            self.added[name].append(spec.clip_id)
            assert add_row(writer, spec)

        self._under(name, fates, add)

    @rule(name=st.sampled_from("AB"), fates=FATES)
    def flush(self, name: str, fates: list[Fate]) -> None:
        """What was added is in the data set when this returns."""
        if (writer := self.running.get(name)) is None:
            return

        def flush() -> None:
            writer.flush()
            assert set(self.added[name]) <= self._stored().keys(), "an acknowledged row is lost"

        self._under(name, fates, flush)

    @rule(
        name=st.sampled_from("AB"),
        good=st.sampled_from(CLIPS[::2]),
        failing=st.sampled_from(CLIPS[1::2]),
        num_fine=st.integers(0, 1),
        fate=st.sampled_from([fate for fate in Fate if fate is not Fate.FINE]),
    )
    def commit_disturbed(
        self, name: str, good: ClipSpec, failing: ClipSpec, num_fine: int, fate: Fate
    ) -> None:
        """What the protocol is about: something before the fence, or between it and failures."""
        if name not in self.running:
            self.start(name, [])
        self.add(name, good, [])
        self.add(name, failing, [])
        self.flush(name, [Fate.FINE] * num_fine + [fate])

    @rule(name=st.sampled_from("AB"), fates=FATES)
    def time_passes(self, name: str, fates: list[Fate]) -> None:
        """The timer commits; an error is kept for the next call."""
        writer = self.running.get(name)
        if writer is not None and writer._timer is not None and writer._timer.is_due:
            self._under(name, fates, writer._timer.function)

    @rule(name=st.sampled_from("AB"))
    def kill(self, name: str) -> None:
        """SIGKILL between two calls."""
        self.running.pop(name, None)

    @invariant()
    def no_clip_twice(self) -> None:
        assert all(count == 1 for count in self._stored().values())

    @invariant()
    def no_gap_and_nothing_rewritten(self) -> None:
        parts = list_parts(self.shared, LAYOUT)
        assert parts.captions == tuple(range(1, parts.last + 1))
        for uri, data in self.seen.items():
            assert self.shared.objects[uri] == data
        self.seen = dict(self.shared.objects)

    def teardown(self) -> None:
        """A quiet night: one writer over a storage that works makes the data set whole."""
        try:
            if not hasattr(self, "output"):
                return
            with Committer(self.shared, LAYOUT, self.output, "run-last") as writer:
                for spec in CLIPS:
                    if not writer.done.has_clip(spec.video.video_id, spec.clip_id):
                        add_row(writer, spec)
            self.no_clip_twice()
            self.no_gap_and_nothing_rewritten()
            report = verify(self.shared, LAYOUT.uri, [spec.video for spec in CLIPS])
            assert report.is_whole, report.problems
            # what is stored can't change any more, whatever a writer does that was paused meanwhile
            for writer in self.running.values():
                with suppress(SecondWriterError):
                    writer.flush()
            self.no_clip_twice()
            self.no_gap_and_nothing_rewritten()
        finally:
            self.timer_patch.stop()

    def _under(self, name: str, fates: list[Fate], action: Callable[[], None]) -> None:
        """Do it; what ends the writer ends it."""
        self.storages[name].fates = list(fates)
        try:
            action()
        except KilledError:
            self.running.pop(name, None)
        except (TransientStorageError, SecondWriterError):
            self.running.pop(name, None)
        finally:
            self.storages[name].fates = []

    def _interference_with(self, name: str) -> Callable[[Fate], None]:
        """What the other writer does in the middle of an operation of ``name``, undisturbed."""
        other = "B" if name == "A" else "A"

        def interfere(fate: Fate) -> None:
            if self.storages[other].fates:
                return  # it is itself in the middle of something
            if fate is not Fate.OTHER_COMMITS:
                self.start(other, [])
            if fate is Fate.OTHER_REPEATS:
                for spec in CLIPS:
                    if spec.clip_id in self.added[name]:
                        self.add(other, spec, [])
            if other in self.running:
                self.flush(other, [])

        return interfere

    def _stored(self) -> Counter[str]:
        return Counter(
            row["clip_id"]
            for table in Table
            for row in iter_rows(self.shared, LAYOUT, table, ["clip_id"])
        )


def add_row(writer: Committer, spec: ClipSpec) -> bool:
    if spec.video.uri[-5] in FAILING:
        return writer.add_failure(failure_of(spec))
    return writer.add_caption(caption_of(spec))


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

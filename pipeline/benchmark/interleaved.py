"""Methods that take turns on the same clips.

The machine's speed drifts, so methods are never timed one after the other as a whole: every group
of clips is decoded by all methods in turn, each time starting with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.contestants import Contestant
from pipeline.benchmark.runs import ClipRun
from pipeline.progress import StepProgress

_GROUPS_PER_BATCH = 3

Print = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant, and that it decodes only every ``every``-th group: slow ones need fewer."""

    contestant: Contestant
    every: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What each entry decoded, and the errors of those that refused to, word for word."""

    runs: Mapping[str, Sequence[ClipRun]]
    refused: Mapping[str, str]


def group_size(batch: int) -> int:
    """Clips of one turn: enough for slots to be filled again, few enough to take turns often."""
    return 1 if batch == 1 else _GROUPS_PER_BATCH * batch


def decode_in_turn(
    entries: Mapping[str, Entry],
    clips: Sequence[BenchmarkClip],
    warm_up: Sequence[BenchmarkClip],
    batch: int,
    label: str,
    print_line: Print,
) -> Outcome:
    """Decode all clips by all entries, which warm up on others: some remember what they captioned.

    An entry that raises ValueError or NotImplementedError while it warms up has refused.
    """
    refused: dict[str, str] = {}
    runs: dict[str, list[ClipRun]] = {}
    for name, entry in entries.items():
        try:
            entry.contestant.caption(warm_up, 0)
        except (ValueError, NotImplementedError) as error:
            refused[name] = f"{type(error).__name__}: {error}"
            print_line(f"{label}: {name} refuses: {refused[name]}")
        else:
            runs[name] = []
    size = group_size(batch)
    progress = StepProgress(f"{label}, clips", len(clips), print_line)
    for turn, start in enumerate(range(0, len(clips), size)):
        group = clips[start : start + size]
        for name in rotated(list(runs), turn):
            if turn % entries[name].every == 0:
                runs[name] += entries[name].contestant.caption(group, start)
        progress.show(start + len(group))
    return Outcome(runs, refused)


def rotated(names: Sequence[str], turn: int) -> Iterator[str]:
    """All names, starting with another one each turn."""
    for index in range(len(names)):
        yield names[(index + turn) % len(names)]

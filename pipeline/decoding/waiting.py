"""A stream of requests of which the first few can be looked at before they are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Waiting(Generic[ItemT]):
    """Items in order; none is asked of the source before it is looked at or taken."""

    def __init__(self, source: Iterator[ItemT]) -> None:
        self._source = source
        self._seen: deque[ItemT] = deque()

    def look_ahead(self, num_items: int) -> Sequence[ItemT]:
        """The next ``num_items``, fewer if the source ends; they stay."""
        while len(self._seen) < num_items:
            for item in self._source:
                self._seen.append(item)
                break
            else:
                break
        return tuple(self._seen)

    def take_while(self, wanted: Callable[[ItemT], bool]) -> Iterator[ItemT]:
        """Take items up to the first that is not wanted; that one stays."""
        while self.look_ahead(1) and wanted(self._seen[0]):
            yield self._seen.popleft()

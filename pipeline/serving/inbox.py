"""Where requests wait for the engine's thread."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Inbox(Generic[ItemT]):
    """A queue between threads whose first item can be looked at before it is taken."""

    def __init__(self) -> None:
        self._items: deque[ItemT] = deque()
        self._changed = Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: ItemT) -> bool:
        """Add an item; False if the inbox is closed, and then it is not added."""
        with self._changed:
            if self._is_closed:
                return False
            self._items.append(item)
            self._changed.notify()
            return True

    def first(self) -> ItemT | None:
        """The next item, which stays; None if there is none now."""
        with self._changed:
            return self._items[0] if self._items else None

    def wait(self) -> ItemT | None:
        """The next item, which stays, once there is one; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._is_closed)
            return self._items[0] if self._items else None

    def take(self) -> ItemT:
        """Remove the first item. Raises IndexError without one."""
        with self._changed:
            return self._items.popleft()

    def close(self) -> list[ItemT]:
        """Let no more in; returns what waited, removed."""
        with self._changed:
            left = list(self._items)
            self._items.clear()
            self._is_closed = True
            self._changed.notify_all()
            return left

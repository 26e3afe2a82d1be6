"""Whose turn it is: clients are served in turn, each of them in its own order, and nobody can take all places.

Boundary: a plain data structure for one thread at a time; its owner locks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A bounded queue of items by client; `take` goes round the clients that have items."""

    def __init__(self, places: int) -> None:
        """`places`: how many items may wait, of one client at most half of them, but one always."""
        self._places = places
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: T) -> bool:
        """Add an item behind those of the same client; False where there is no place for it."""
        mine = self._waiting.get(client)
        if len(self) >= self._places or (mine is not None and len(mine) >= max(1, self._places // 2)):
            return False
        if mine is None:
            self._waiting[client] = mine = deque()
        mine.append(item)
        return True

    def take(self) -> T | None:
        """The next item, None where there is none; its client goes behind all others."""
        if not self._waiting:
            return None
        client, mine = self._waiting.popitem(last=False)
        item = mine.popleft()
        if mine:
            self._waiting[client] = mine
        return item

    def remove(self, client: str, item: T) -> bool:
        """Take an item out before its turn; False where it does not wait any more."""
        mine = self._waiting.get(client)
        if mine is None or item not in mine:
            return False
        mine.remove(item)
        if not mine:
            del self._waiting[client]
        return True

    def drain(self) -> list[T]:
        """All items, taken out."""
        items = [item for mine in self._waiting.values() for item in mine]
        self._waiting.clear()
        return items

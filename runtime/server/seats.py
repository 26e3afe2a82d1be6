"""How many models are in memory at once.

Boundary: counts; which model goes is decided by its worker, which looks at `wanted` between two jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_LOOK_SECONDS = 0.2  # how often a worker that waits looks whether anyone still waits for it


class Seats:
    """`count` seats for workers, given in the order in which they ask."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: list[object] = []
        self._changed = threading.Condition()
        # Called, without a lock, when a seat is wanted that is not there: whoever is idle may give its own back.
        self.listeners: list[Callable[[], None]] = []

    @property
    def wanted(self) -> bool:
        """Whether someone waits while no seat is free."""
        return bool(self._line) and self._free == 0

    def take(self, give_up: Callable[[], bool]) -> bool:
        """Wait for a seat; False where `give_up` says so first."""
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            full = self._free == 0
        if full:
            for listener in self.listeners:
                listener()
        with self._changed:
            try:
                while self._free == 0 or self._line[0] is not ticket:
                    if give_up():
                        return False
                    self._changed.wait(_LOOK_SECONDS)
                self._free -= 1
                return True
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()

    def give_back(self) -> None:
        """Leave a seat."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

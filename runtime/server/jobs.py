"""One answer to make: what a worker needs to know of a request, and what it reports back.

Boundary: data, and the flag by which any thread ends a job; knows neither HTTP nor sessions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .prefixes import Conversation

if TYPE_CHECKING:
    from ..session import Options, Piece, Prompt


@dataclass(frozen=True)
class Task:
    """`client`: who takes turns with others. `options`: keyword arguments of `Session.stream`."""

    client: str
    prompt: Prompt
    options: Options
    conversation: Conversation


@dataclass(frozen=True)
class Begun:
    """The session took the prompt; pieces follow."""


@dataclass(frozen=True)
class Failed:
    """The end, by an error."""

    error: Exception


Event: TypeAlias = "Begun | Failed | Piece"


class Job:
    """A task on its way. The last event is a piece with a finish reason, or Failed."""

    def __init__(self, task: Task, deliver: Callable[[Event], None]) -> None:
        """`deliver` is called from the worker's thread."""
        self.task = task
        self.deliver = deliver
        self.cancelled = threading.Event()

"""A job as the event loop sees it: pieces to await, given up when nobody waits for them any more.

Boundary: joins asyncio and the worker's thread; knows no shape of an answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.types import Receive

from .jobs import Begun, Event, Failed, Job, Task
from .problems import Problem, Refused
from .worker import Worker

if TYPE_CHECKING:
    from ..session import Piece

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection; nobody reads a response."""


class Answers:
    """The pieces of one answer, or of several one after the other, as they come. Not to be shared between tasks."""

    def __init__(self, worker: Worker, tasks: Sequence[Task], *, one_call: bool = False) -> None:
        """`one_call`: an answer ends with its first tool call. Raises Refused where the worker takes no more jobs."""
        # Not bounded: an answer is no longer than its context, and the model is not kept waiting for a slow client.
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._waiting = list(tasks)
        self._one_call = one_call
        self._called = False
        self._job: Job | None = None
        self._submit()

    async def begun(self, seconds: float) -> None:
        """Wait until the session took the first prompt, at most `seconds`. Raises the error by which it did not."""
        with suppress(TimeoutError):
            event = await asyncio.wait_for(self._events.get(), seconds)
            if isinstance(event, Failed):
                self._job = None
                raise event.error

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Every piece with the number of its answer. Raises what the session raises, Refused where the server ended
        an answer.
        """
        number = 0
        while self._job is not None:
            event = await self._events.get()
            if isinstance(event, Failed):
                self._job = None
                raise event.error
            if isinstance(event, Begun):
                continue
            last = event.finish_reason is not None
            if last:
                self._job = None
                if event.finish_reason == "cancelled" and not self._called:
                    raise Refused(Problem(503, "the server ended this answer: it shuts down", "shutting_down"))
                event = self._ended(event)
            if last or not self._called:
                yield number, event
            if event.call is not None and self._one_call and not self._called and self._job is not None:
                self._called = True
                self._worker.cancel(self._job)
            if last and self._waiting:
                number += 1
                self._submit()

    def end(self) -> None:
        """Give up what is not made yet."""
        self._waiting.clear()
        if self._job is not None:
            job, self._job = self._job, None
            self._worker.cancel(job)

    def _ended(self, last: Piece) -> Piece:
        """The last piece; behind the one call that counts it says nothing more."""
        if not self._called:
            return last
        self._called = False
        return dataclasses.replace(last, text="", kind="answer", call=None, finish_reason="stop")

    def _submit(self) -> None:
        self._job = Job(self._waiting.pop(0), self._deliver)
        self._worker.submit(self._job)

    def _deliver(self, event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` while the client is there. Raises ClientGone, after `work` was cancelled."""
    doing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientGone
        return doing.result()
    finally:
        for future in (doing, watching):
            if not future.done():
                future.cancel()
        await asyncio.gather(doing, watching, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Return when the client closes its connection; what it still sends is not read."""
    while (await receive())["type"] != "http.disconnect":
        pass

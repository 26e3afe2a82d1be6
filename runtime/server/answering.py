"""A job as the event loop sees it: parts to await, given up when nobody waits for them any more.

Boundary: joins asyncio and the worker's thread; knows no shape of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from starlette.types import Receive

from .jobs import Begun, Ended, Failed, Job, M, Task
from .problems import Problem, Refused
from .worker import Worker

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection; nobody reads a response."""


class Answers(Generic[M]):
    """What one task makes, or several one after the other, as it comes. Not to be shared between coroutines."""

    def __init__(self, worker: Worker, tasks: Sequence[Task[M]]) -> None:
        """Raises Refused where the worker takes no more jobs."""
        # Not bounded: an answer is no longer than its context, and the model is not kept waiting for a slow client.
        self._events: asyncio.Queue[Begun | Ended | Failed | M] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._waiting = list(tasks)
        self._enough = False
        self._job: Job[M] | None = None
        self._submit()

    async def begun(self, seconds: float) -> None:
        """Wait until the session took the first task, at most `seconds`. Raises the error by which it did not."""
        with suppress(TimeoutError):
            event = await asyncio.wait_for(self._events.get(), seconds)
            if isinstance(event, Failed):
                self._job = None
                raise event.error

    async def parts(self) -> AsyncIterator[tuple[int, M]]:
        """Everything that is made, with the number of its task. Raises what the session raises, Refused where the
        server ended the work.
        """
        number = 0
        while self._job is not None:
            event = await self._events.get()
            if isinstance(event, Failed):
                self._job = None
                raise event.error
            if isinstance(event, Begun):
                continue
            if isinstance(event, Ended):
                self._job, self._enough = None, False
                number += 1
                if self._waiting:
                    self._submit()
                continue
            if event.finish_reason == "cancelled" and not self._enough:
                raise Refused(Problem(503, "the server ended this answer: it shuts down", "shutting_down"))
            yield number, event

    def enough(self) -> None:
        """Have the current task ended early: its last part still comes, with what it cost."""
        if self._job is not None and not self._enough:
            self._enough = True
            self._worker.cancel(self._job)

    def end(self) -> None:
        """Give up what is not made yet."""
        self._waiting.clear()
        if self._job is not None:
            job, self._job = self._job, None
            self._worker.cancel(job)

    def _submit(self) -> None:
        self._job = Job(self._waiting.pop(0), self._deliver)
        self._worker.submit(self._job)

    def _deliver(self, event: Begun | Ended | Failed | M) -> None:
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

"""The thread that owns the session of one bundle: loads it when it is asked for, answers one job after the other.

Boundary: jobs in, events out; whose turn it is says fair_queue.py, how many models may be in memory says seats.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..errors import EdgePhiError
from .fair_queue import FairQueue
from .jobs import Begun, Ended, Engine, Failed, Job
from .problems import Problem, Refused
from .seats import Seats
from .settings import Limits

if TYPE_CHECKING:
    from ..session import Usage

LOG = logging.getLogger("edgephi.server")


class Worker:
    """Answers the jobs of one model. All methods may be called from any thread; none of them waits for the model."""

    def __init__(
        self,
        name: str,
        open_engine: Callable[[], Engine],
        limits: Limits,
        seats: Seats,
        observe: Callable[[Usage, str], None],
    ) -> None:
        """`observe` is told the cost of every answer and how it ended, from the worker's thread."""
        self._name = name
        self._open = open_engine
        self._limits = limits
        self._seats = seats
        self._observe = observe
        self._changed = threading.Condition()
        self._queue: FairQueue[Job[Any]] = FairQueue(limits.places)
        self._engine: Engine | None = None
        self._current: Job[Any] | None = None
        self._warm = self._stopping = False
        self._used = time.monotonic()
        self._mean_seconds = 1.0
        self._state = "unloaded"
        self._thread = threading.Thread(target=self._run, name=f"edgephi-{name}", daemon=True)
        seats.listeners.append(self._wake)

    @property
    def state(self) -> str:
        """One of "unloaded", "loading" and "loaded"."""
        return self._state

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        with self._changed:
            return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether a job is being answered."""
        return self._current is not None

    def start(self, *, preload: bool) -> None:
        """Begin to work; `preload`: load the model now."""
        self._warm = preload
        self._thread.start()

    def submit(self, job: Job[Any]) -> None:
        """Queue a job. Raises Refused: 429 where there is no place, 503 where the server is ending."""
        with self._changed:
            if self._stopping:
                raise _ending()
            if not self._queue.put(job.task.client, job):
                seconds = int(min(120.0, max(1.0, self._mean_seconds * len(self._queue))))
                raise Refused(Problem(
                    429, f"{len(self._queue)} requests wait for model {self._name!r}, more are not taken: ask again"
                    f" in {seconds} s", "queue_full", retry_after=seconds,
                ))
            self._changed.notify_all()

    def cancel(self, job: Job[Any]) -> None:
        """End a job, wherever it is; one that has ended is left alone."""
        with self._changed:
            job.cancelled.set()
            if not self._queue.remove(job.task.client, job) and self._current is job and self._engine is not None:
                self._engine.cancel()

    def stop(self, *, at_once: bool) -> None:
        """Take no more jobs and refuse those that wait; `at_once`: end the one in progress too."""
        with self._changed:
            self._stopping = True
            refused, current = self._queue.drain(), self._current
            self._changed.notify_all()
        for job in refused:
            job.deliver(Failed(_ending()))
        if at_once and current is not None:
            self.cancel(current)

    def join(self, seconds: float) -> None:
        """Wait for the thread, after `stop`."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        if self._warm:
            self._preload()
        while (job := self._next()) is not None:
            self._answer(job)
            with self._changed:
                self._current = None
                self._used = time.monotonic()
        self._unload()

    def _next(self) -> Job[Any] | None:
        """The next job, None at the end. Meanwhile the model goes when it is idle or its seat is wanted."""
        while True:
            with self._changed:
                must_go = self._engine is not None and (self._seats.wanted or self._idle_left() == 0)
                if not must_go:
                    self._current = self._queue.take()
                    if self._current is not None or self._stopping:
                        return self._current
                    self._changed.wait(self._idle_left())
                    continue
            self._unload()

    def _idle_left(self) -> float | None:
        """Seconds until the model goes; None for never."""
        if self._engine is None or self._limits.idle_seconds is None:
            return None
        return max(0.0, self._used + self._limits.idle_seconds - time.monotonic())

    def _answer(self, job: Job[Any]) -> None:
        started = time.monotonic()
        try:
            engine = self._loaded(job.cancelled)
            if engine is None:
                raise _ending()
            self._stream(engine, job)
        except EdgePhiError as error:
            job.deliver(Failed(error))
        # Whatever it is, the client is told and the thread lives on; the session may be in any state and goes.
        except Exception as error:  # noqa: BLE001
            job.deliver(Failed(error))
            self._unload()
        self._mean_seconds += 0.2 * (time.monotonic() - started - self._mean_seconds)

    def _stream(self, engine: Engine, job: Job[Any]) -> None:
        def end_if_cancelled(*progress: object) -> None:
            # `cancel` is lost where it comes before the session has begun to work.
            if job.cancelled.is_set():
                engine.cancel()

        with closing(job.task.start(engine, end_if_cancelled)) as made:
            job.deliver(Begun())
            for part in made:
                job.deliver(part)
                end_if_cancelled()
                if part.usage is not None and part.finish_reason is not None:
                    self._observe(part.usage, "cancelled" if job.cancelled.is_set() else part.finish_reason)
                    if job.cancelled.is_set():
                        break
        job.deliver(Ended())

    def _loaded(self, cancelled: threading.Event) -> Engine | None:
        """The session, loaded if need be; None where the job was cancelled meanwhile. Raises what `load` raises."""
        if self._engine is None:
            if not self._seats.take(lambda: cancelled.is_set() or self._stopping):
                return None
            self._state = "loading"
            try:
                engine = self._open()
            except BaseException:
                self._state = "unloaded"
                self._seats.give_back()
                raise
            with self._changed:
                self._engine = engine
                self._used = time.monotonic()
            self._state = "loaded"
        return None if cancelled.is_set() else self._engine

    def _preload(self) -> None:
        try:
            self._loaded(threading.Event())
        # The first request meets the same error and reports it.
        except Exception as error:  # noqa: BLE001
            LOG.error("model %s cannot be loaded: %s", self._name, error)

    def _unload(self) -> None:
        with self._changed:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.close()
        self._state = "unloaded"
        self._seats.give_back()


def _ending() -> Refused:
    return Refused(Problem(503, "the server is shutting down", "shutting_down", retry_after=5))

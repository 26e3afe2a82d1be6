"""One piece of work for a session: what a worker needs to know of a request, and what it reports back.

Boundary: data, and the flag by which any thread ends a job; knows neither HTTP nor how sessions work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, Unpack

if TYPE_CHECKING:
    from ..audio_decode import AudioSource
    from ..options import Options
    from ..session import Piece, Prompt, TranscriptSegment, Usage


class Engine(Protocol):
    """The part of a session that the server uses."""

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Generator[Piece, None, None]:
        """Answer a prompt piece by piece."""

    def stream_transcript(
        self, source: AudioSource, *, language: str | None = None, translate: str | None = None,
        adapter: str | None = None,
    ) -> Generator[TranscriptSegment, None, None]:
        """What is said in a recording, segment by segment."""

    def cancel(self) -> None:
        """End the call in progress within one step."""

    def close(self) -> None:
        """Free all memory."""


class Made(Protocol):
    """What comes out of a session: a stretch of text, why it ended, and its cost where that is known."""

    @property
    def finish_reason(self) -> str | None:
        """None where more comes; "cancelled" where the session was told to end."""

    @property
    def usage(self) -> Usage | None:
        """The cost, with a finish reason alone."""


M = TypeVar("M", bound=Made)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task(Generic[M]):
    """`client`: who takes turns with others. `start` asks the session, which calls back while it reads the prompt."""

    client: str
    start: Callable[[Engine, Progress], Generator[M, None, None]]


@dataclass(frozen=True)
class Begun:
    """The session took the work; what it makes follows."""


@dataclass(frozen=True)
class Ended:
    """All of it was delivered."""


@dataclass(frozen=True)
class Failed:
    """The end, by an error."""

    error: Exception


class Job(Generic[M]):
    """A task on its way. The last event is Ended or Failed."""

    def __init__(self, task: Task[M], deliver: Callable[[Begun | Ended | Failed | M], None]) -> None:
        """`deliver` is called from the worker's thread."""
        self.task = task
        self.deliver = deliver
        self.cancelled = threading.Event()


def ask(
    prompt: Prompt, options: Options, adapter: str | None = None
) -> Callable[[Engine, Progress], Generator[Piece, None, None]]:
    """A task's `start` that answers a prompt, with an adapter of the bundle where one is named."""

    def start(engine: Engine, progress: Progress) -> Generator[Piece, None, None]:
        given = options.copy()
        given["progress"] = progress
        if adapter is not None:
            given["adapter"] = adapter
        return engine.stream(prompt, **given)

    return start


def transcribe(
    recording: bytes, language: str | None, translate: str | None, adapter: str | None = None
) -> Callable[[Engine, Progress], Generator[TranscriptSegment, None, None]]:
    """A task's `start` that writes down a recording, with an adapter of the bundle where one is named."""
    return lambda engine, progress: engine.stream_transcript(
        recording, language=language, translate=translate, adapter=adapter
    )

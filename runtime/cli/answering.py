"""Shows an answer while it is made: text to stdout, everything else to stderr, Ctrl-C at once.

Boundary: takes a session and a prompt, gives the finished answer back; keeps no conversation.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import click

from .settings import Settings

if TYPE_CHECKING:
    from rich.status import Status

    from ..session import Piece, Prompt, Session, Usage
    from ..tools import MalformedCall, ToolCall

T = TypeVar("T")

PATIENCE = 0.5  # seconds of silence after which a terminal is told what is going on
# Characters by which a text could steer the terminal it is shown on, shown as the pictures that Unicode has for them.
_HARMLESS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_HARMLESS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class CutAnswer(click.ClickException):
    """An answer of a given form that ended before it had that form; what there is of it was shown."""

    exit_code = 3


@dataclass(frozen=True)
class Finished:
    """An answer that has ended: what was said, why it ended, what it cost. `interrupted`: by Ctrl-C."""

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    malformed_calls: tuple[MalformedCall, ...]
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    interrupted: bool


def answer(session: Session, prompt: Prompt, settings: Settings, *, show: Shown | None) -> Finished:
    """Make an answer; `show` receives its pieces. Raises EdgePhiError; KeyboardInterrupt at the second Ctrl-C."""
    with Waiting() as waiting:
        stream = session.stream(prompt, **settings.options() | {"progress": waiting.report})
        pieces: list[Piece] = []
        with interruptible(session, stream) as (made, interrupted):
            for piece in made:
                pieces.append(piece)
                if show is None or not (piece.text or piece.finish_reason):
                    continue
                if piece.kind == "thinking" and not show.thoughts and piece.finish_reason is None:
                    waiting.say(f"thinking: {len(pieces)} tokens")
                    continue
                waiting.stop()
                show.piece(piece)
    last = pieces[-1]
    assert last.finish_reason is not None and last.usage is not None
    return Finished(
        text="".join(piece.text for piece in pieces if piece.kind == "answer"),
        thinking="".join(piece.text for piece in pieces if piece.kind == "thinking"),
        tool_calls=tuple(piece.call for piece in pieces if piece.call is not None),
        malformed_calls=tuple(piece.malformed for piece in pieces if piece.malformed is not None),
        token_ids=tuple(piece.token_id for piece in pieces if piece.token_id is not None),
        finish_reason=last.finish_reason,
        usage=last.usage,
        interrupted=interrupted.is_set(),
    )


@contextmanager
def interruptible(session: Session, stream: Iterator[T]) -> Iterator[tuple[Iterator[T], threading.Event]]:
    """The parts of `stream`, made in another thread, so that Ctrl-C is heard while the model computes.

    The first Ctrl-C sets the event and cancels the answer, whose last part still comes; the second one raises
    KeyboardInterrupt.
    """
    made: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
    interrupted = threading.Event()

    def make() -> None:
        try:
            for piece in stream:
                made.put(piece)
            made.put(None)
        except BaseException as error:  # noqa: BLE001  # raised again where the pieces are taken
            made.put(error)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        session.cancel()

    worker = threading.Thread(target=make, name="edgephi-answer", daemon=True)
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        worker.start()
        yield _taken(made, session, interrupted), interrupted
    finally:
        while worker.is_alive():
            session.cancel()
            worker.join(0.1)
        signal.signal(signal.SIGINT, before)


def _taken(
    made: queue.SimpleQueue[T | BaseException | None], session: Session, interrupted: threading.Event
) -> Iterator[T]:
    while True:
        if interrupted.is_set():  # again: it may have come between two calls of the session, or before the first
            session.cancel()
        try:
            item = made.get(timeout=0.2)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


class Shown:
    """Writes pieces as they come: the answer and tool calls to stdout; thoughts dim to stderr when that is a terminal,
    unless they are not wanted.
    """

    def __init__(self, *, thoughts: bool = True) -> None:
        self.thoughts = thoughts
        self._terminal = sys.stdout.isatty()
        self._aside = sys.stderr.isatty()
        self._at_line_start = True
        self._in_thought = False

    def piece(self, piece: Piece) -> None:
        """Show one piece; the last one ends the line."""
        if piece.kind == "answer":
            self._end_thought()
            self._write(piece.text)
        elif piece.kind == "thinking":
            if self._aside and self.thoughts:
                self._in_thought = True
                click.secho(harmless(piece.text), nl=False, err=True, dim=True)
        elif piece.malformed is not None:
            self._end_thought()
            note(f"(this was begun as a call of a tool and is none, {piece.malformed.reason}: {harmless(piece.text)})")
        elif piece.text:
            self._end_thought()
            self._write(f"{piece.text}\n")
        if piece.finish_reason is not None:
            self._end_thought()
            if not self._at_line_start:
                self._write("\n")

    def _end_thought(self) -> None:
        if self._in_thought:
            self._in_thought = False
            click.echo("\n", err=True)

    def _write(self, text: str) -> None:
        if text:
            # `color` keeps click from taking apart what the model wrote; a terminal gets none of its escapes anyway.
            click.echo(harmless(text) if self._terminal else text, nl=False, color=True)
            self._at_line_start = text.endswith("\n")


class Waiting:
    """Tells a terminal on stderr what is going on, if it goes on for longer than PATIENCE."""

    def __init__(self, text: str = "working") -> None:
        self._text = text
        self._started = time.monotonic()
        self._status: Status | None = None
        self._stopped = not sys.stderr.isatty()
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._begin)
        self._timer.daemon = True

    def __enter__(self) -> Waiting:
        if not self._stopped:
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        """Receives the progress of a session."""
        self.say(f"{stage}: {done} of {total} tokens")

    def say(self, text: str) -> None:
        """Change the text."""
        self._text = text
        with self._lock:
            if self._status is not None:
                self._status.update(self._text)

    def stop(self) -> None:
        """Take the line away."""
        self._timer.cancel()
        with self._lock:
            self._stopped = True
            if self._status is not None:
                self._status.stop()
                self._status = None

    def _begin(self) -> None:
        from rich.console import Console

        with self._lock:
            if not self._stopped:
                self._status = Console(stderr=True).status(self._text)
                self._status.start()


def note(text: str) -> None:
    """Say something that is not the answer."""
    click.secho(text, err=True, dim=sys.stderr.isatty())


def note_end(finished: Finished) -> None:
    """Say that an answer was cut, which the text itself does not show."""
    if finished.finish_reason == "length":
        tokens = finished.usage.completion_tokens
        thought = "" if finished.text or not finished.thinking else "; all of it is thought, which a budget would end"
        note(f"(cut after {tokens} tokens, by the limit of max_tokens or of the context{thought})")
    elif finished.interrupted:
        note("(stopped)")


def require_form(finish_reason: str | None, settings: Settings) -> None:
    """Raises CutAnswer where the answer has not the form that was asked for, because a limit ended it."""
    if finish_reason == "length" and settings.form is not None:
        raise CutAnswer(
            f"the answer was cut by the limit of max_tokens or of the context and does not follow {settings.form}:"
            " raise --max-tokens, or shorten the prompt"
        )


def statistics(finished: Finished) -> str:
    """The cost of an answer in one line."""
    usage = finished.usage
    parts = [f"prompt {usage.prompt_tokens} tokens"]
    if usage.cached_tokens:
        parts[0] += f", {usage.cached_tokens} cached"
    parts += _rate("prefill", usage.prefill_rate)
    if usage.time_to_first_token is not None:
        parts.append(f"first token {usage.time_to_first_token:.2f} s")
    thought = f", {usage.thinking_tokens} of them thought" if usage.thinking_tokens else ""
    parts.append(f"answer {usage.completion_tokens} tokens{thought}")
    parts += _rate("decode", usage.decode_rate)
    if usage.recomputed_tokens:
        parts.append(f"recomputed {usage.recomputed_tokens} tokens in {usage.recompute_seconds:.1f} s")
    parts.append(f"peak memory {usage.peak_memory / 1e9:.2f} GB")
    encoders = "".join(f", {part} on {device}" for part, device in usage.encoder_devices.items())
    parts.append(f"{usage.device}{encoders}, {usage.threads} threads, {finished.finish_reason}")
    return " | ".join(parts)


def _rate(name: str, rate: float | None) -> Sequence[str]:
    return [] if rate is None else [f"{name} {rate:.1f} tokens/s"]


def harmless(text: str) -> str:
    """The text without what could steer a terminal."""
    return text.translate(_HARMLESS)

"""Clients that ask a live server all the time, check every answer, and leave whenever they like.

Boundary: speaks HTTP by the standard library alone, so that what is tested is the server and no client's patience;
which answers are right is told to it.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"
PATIENCE = 120.0  # seconds without a byte after which a client calls its answer lost
SHOWN = 20  # wrong answers that are kept word for word


@dataclass(frozen=True)
class Talk:
    """A conversation of several turns: what the user says, and what the model answers to each when nobody else asks."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]

    def messages(self, turn: int) -> list[dict[str, str]]:
        """The conversation up to the question of `turn`."""
        told = [{"role": "user", "content": self.questions[0]}]
        for number in range(turn):
            told.append({"role": "assistant", "content": self.answers[number]})
            told.append({"role": "user", "content": self.questions[number + 1]})
        return told


@dataclass
class Tally:
    """What all clients saw. `first_seconds` and `seconds`: from asking to the first token and to the end."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    refused_without_advice: int = 0
    left: int = 0
    first_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answered(self, asked: str, expected: str, found: str, finish: str | None) -> None:
        """Compare an answer with the right one. A finished answer that differs is wrong, another one lost."""
        with self.lock:
            if finish != "stop":
                self.lost.append(f"{asked!r}: ended by {finish!r} after {found!r}")
            elif found == expected:
                self.right += 1
            else:
                self.wrong.append(f"{asked!r}: {found!r} instead of {expected!r}")

    def failed(self, asked: str, error: str) -> None:
        """Note an answer that did not come."""
        with self.lock:
            self.lost.append(f"{asked!r}: {error}")


class Client(threading.Thread):
    """Asks until it is told to stop: three of four answers are read to the end, the others left at some moment."""

    def __init__(self, number: int, port: int, model: str, talks: Sequence[Talk], tally: Tally, seed: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._port = port
        self._model = model
        self._user = f"client-{number}"
        self._talks = talks
        self._tally = tally
        self._draw = random.Random(f"{seed} {number}")
        self._over = threading.Event()

    def stop(self) -> None:
        """Ask nothing more; the question in progress is still read to its end."""
        self._over.set()

    def run(self) -> None:
        """Ask one question after the other."""
        while not self._over.is_set():
            talk = self._draw.choice(self._talks)
            turn = self._draw.randrange(len(talk.questions))
            asked = talk.questions[turn]
            try:
                wait = self._ask(talk, turn, asked)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._tally.failed(asked, f"{type(error).__name__}: {error}")
                continue
            self._over.wait(wait)

    def _ask(self, talk: Talk, turn: int, asked: str) -> float:
        """Ask once. Returns how many seconds the server wants this client to wait."""
        leaves = self._draw.choice((False, False, False, True))
        body = {
            "model": self._model, "messages": talk.messages(turn), "temperature": 0, "user": self._user,
            "stream": leaves or self._draw.random() < 0.7,
        }
        started = time.monotonic()
        with _asked(self._port, body) as connection:
            if leaves and self._draw.random() < 0.3:
                self._over.wait(self._draw.choice((0.0, 0.01, 0.1, 0.5)))
                return self._leave()
            with closing(connection.getresponse()) as response:
                if response.status == 429:
                    return self._refused(response)
                if response.status != 200:
                    self._tally.failed(asked, f"status {response.status}: {response.read()[:300]!r}")
                    return 0.0
                expected = talk.answers[turn]
                if not body["stream"]:
                    (choice,) = json.loads(response.read())["choices"]
                    self._tally.answered(asked, expected, choice["message"]["content"], choice["finish_reason"])
                    self._took(started, None)
                    return 0.0
                patience = self._draw.randrange(4) if leaves else None
                self._read(response, asked, expected, started, patience)
        return 0.0

    def _read(
        self, response: http.client.HTTPResponse, asked: str, expected: str, started: float, patience: int | None
    ) -> None:
        """Read a stream; with `patience` only so many pieces of it."""
        text, finish, first = "", None, None
        for count, chunk in enumerate(stream_chunks(response)):
            if patience is not None and count >= patience:
                self._leave()
                return
            if "error" in chunk:
                self._tally.failed(asked, f"error in the stream: {chunk['error']}")
                return
            (choice,) = chunk["choices"]
            piece = choice["delta"].get("content") or ""
            if piece and first is None:
                first = time.monotonic() - started
            text, finish = text + piece, choice["finish_reason"] or finish
        self._tally.answered(asked, expected, text, finish)
        self._took(started, first)

    def _took(self, started: float, first: float | None) -> None:
        with self._tally.lock:
            self._tally.seconds.append(time.monotonic() - started)
            if first is not None:
                self._tally.first_seconds.append(first)

    def _leave(self) -> float:
        with self._tally.lock:
            self._tally.left += 1
        return 0.0

    def _refused(self, response: http.client.HTTPResponse) -> float:
        seconds = response.getheader("retry-after") or ""
        with self._tally.lock:
            self._tally.refused += 1
            self._tally.refused_without_advice += not seconds.isdecimal()
        # Half a client's obedience: some wait as they are told, others ask again at once.
        return float(seconds) if seconds.isdecimal() and self._draw.random() < 0.5 else 0.2


@contextmanager
def _asked(port: int, body: dict[str, Any]) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", CHAT, json.dumps(body), {"content-type": "application/json"})
        yield connection
    finally:
        connection.close()


def stream_chunks(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The chunks of a stream until its mark of the end. Raises ValueError where it ends without one."""
    for line in response:
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))
    raise ValueError("the stream ended without its mark of the end")

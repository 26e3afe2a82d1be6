"""A tiny bundle, and ways to run the program on it: in this process, in another one, and on a terminal of its own."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgephi
from edgephi.__main__ import main

PATIENCE = 60.0  # seconds; a limit for a program that hangs, not a measurement
ON_TERMINAL = "import os, sys; os.login_tty(0); from edgephi.__main__ import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Callable[..., Path]) -> Path:
    return tiny_bundle("mini")


@pytest.fixture(scope="session")
def endless(bundle: Path) -> str:
    """A prompt whose greedy answer goes on for thousands of tokens: long enough to be interrupted."""
    with edgephi.load(bundle) as session:
        for prompt in ("Hi", "Hello", "fox", "sea shells", "quick"):
            if session.generate(prompt, max_tokens=3000).finish_reason == "length":
                return prompt
    raise AssertionError("every answer of the tiny model ends early")


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """(arguments, stdin=bytes) → what the program did in this process."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return run


class Terminal:
    """The program on a terminal: `type` sends keys, `wait_for` reads until a text has come."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._keys, screen = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *arguments],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            close_fds=True,
            env={**os.environ, "TERM": "dumb", **environment},
        )
        os.close(screen)
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def wait_for(self, text: str) -> str:
        """What came up to and with `text`; it is taken off `self.text`."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} does not come; there is {self.text!r}"
            if not self._read():
                raise AssertionError(f"the program ended before {text!r}; there is {self.text!r}")
        at = self.text.index(text) + len(text)
        before, self.text = self.text[:at], self.text[at:]
        return before

    def interrupt_until(self, text: str) -> str:
        """Ctrl-C until `text` comes: Python's input() sees a signal that comes just before its select() a key late."""
        deadline = time.monotonic() + PATIENCE
        self.type("\x03")
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} does not come; there is {self.text!r}"
            if not select.select([self._keys], [], [], 1.0)[0]:
                self.type("\x03")
            assert self._read(), "the program ended"
        return self.wait_for(text)

    def wait_for_anything(self) -> None:
        """Read until something more has come."""
        before, deadline = len(self.text), time.monotonic() + PATIENCE
        while len(self.text) == before:
            assert time.monotonic() < deadline, f"nothing comes; there is {self.text!r}"
            assert self._read(), "the program ended"

    def end(self) -> int:
        """Read until the program ends; its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, f"the program does not end; there is {self.text!r}"
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        os.close(self._keys)

    def _read(self) -> bool:
        if not select.select([self._keys], [], [], 1.0)[0]:
            return self._process.poll() is None
        try:
            data = os.read(self._keys, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """(arguments) → the program on a terminal, its state kept in tmp_path."""
    opened: list[Terminal] = []

    def open_terminal(*arguments: str | Path) -> Terminal:
        opened.append(Terminal([str(argument) for argument in arguments], {"XDG_STATE_HOME": str(tmp_path / "state")}))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()

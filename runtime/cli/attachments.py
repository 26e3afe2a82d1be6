"""Pictures and recordings that go with the next question of a conversation.

Boundary: holds parts of a message as they can be saved to a file; what they mean is the session's.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from .answering import note
from .microphone import record

if TYPE_CHECKING:
    from ..session import Session

LONGEST_SECONDS = 600.0
_FIRST = "messages[0].content[0]: "  # where an error says that a medium is wrong


class Attachments:
    """What is attached now; a medium that cannot be read is refused when it is attached."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._parts: list[dict[str, str]] = []

    @property
    def ask(self) -> bool:
        """Whether they are a question by themselves: it may be spoken."""
        return any(part["type"] == "audio" for part in self._parts)

    def add_file(self, kind: str, path: Path) -> None:
        """Attach a picture or a recording. Raises RequestError, MediaError."""
        self._require(kind)
        # Absolute: a conversation may be saved and taken up again from another folder.
        self._add(kind, str(path.absolute()), path.name)

    def add_speech(self, length: str) -> None:
        """Record until Enter is pressed, or for `length` seconds. Raises RequestError, MissingDependency."""
        self._require("audio")
        seconds = _seconds(length) if length else None
        if seconds is None:
            note("(recording; Enter ends it, Ctrl-C throws it away)")
            speech = record(input)
        else:
            note(f"(recording for {seconds:g} s; Ctrl-C throws it away)")
            speech = record(lambda: time.sleep(seconds))
        if speech.gaps:
            note("(this machine was too slow: parts of the recording are missing)")
        if speech.silent:
            note("(the recording is silent: is the microphone muted?)")
        encoded = base64.b64encode(speech.wav).decode("ascii")
        self._add("audio", f"data:audio/wav;base64,{encoded}", f"{speech.seconds:.1f} s of speech")

    def content(self, text: str) -> str | list[dict[str, str]]:
        """The content of a message: pictures, then recordings, then `text`, the order of training."""
        if not self._parts:
            return text
        written = [{"type": "text", "text": text}] if text.strip() else []
        return [*sorted(self._parts, key=lambda part: part["type"] == "audio"), *written]

    def clear(self) -> None:
        """Take everything away."""
        self._parts = []

    def __len__(self) -> int:
        return len(self._parts)

    def _add(self, kind: str, source: str, name: str) -> None:
        part = {"type": kind, kind: source}
        try:
            tokens = len(self._session.encode([{"role": "user", "content": [part]}]))
        except RequestError as error:
            raise type(error)(str(error).removeprefix(_FIRST)) from error
        tokens -= len(self._session.encode([{"role": "user", "content": ""}]))
        self._parts.append(part)
        spoken = " or press Enter if the question is spoken" if kind == "audio" else ""
        note(f"(attached {name}, {tokens} tokens; now ask{spoken})")

    def _require(self, kind: str) -> None:
        takes = self._session.manifest.capabilities
        if kind not in takes:
            raise RequestError(f"this bundle takes {', '.join(takes)}, no {kind}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise RequestError(f"/mic got {text!r:.40}; it takes seconds above 0 and up to {LONGEST_SECONDS:g}, or nothing")
    return seconds

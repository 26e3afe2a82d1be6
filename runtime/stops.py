"""Stop strings in streamed text: text that may yet turn into a stop string is held back until it cannot.

Boundary: strings in, strings out; the same answer however the text is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import RequestError

MAXIMUM_STOPS = 64
MAXIMUM_LENGTH = 1024


class StopScanner:
    """Finds the stop string that is complete first; of two that end together the longer one.

    The stop string itself is not part of the text given out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises RequestError for too many strings (MAXIMUM_STOPS), an empty one, or one beyond MAXIMUM_LENGTH."""
        if isinstance(stops, str):
            stops = (stops,)
        given: Sequence[object] = stops
        for index, stop in enumerate(given):
            if not isinstance(stop, str) or not 0 < len(stop) <= MAXIMUM_LENGTH:
                shown = f"stop[{index}] is {str(stop)!r:.60}"
                raise RequestError(f"{shown}; a stop is text of 1 to {MAXIMUM_LENGTH} characters")
        if len(stops) > MAXIMUM_STOPS:
            raise RequestError(f"{len(stops)} stop strings are given, at most {MAXIMUM_STOPS} are allowed")
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take `text`; return what can be shown, and whether a stop string is reached: then nothing more comes out."""
        if self._stopped:
            return "", True
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held, self._stopped = "", True
            return text[: min(found)[1]], True
        keep = possible_start(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """The text that was held back, once nothing more will come."""
        held, self._held = self._held, ""
        return held


def possible_start(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of `text` that begins one of `marks` without being all of it."""
    longest = max(map(len, marks), default=0)
    for length in range(min(len(text), longest - 1), 0, -1):
        tail = text[-length:]
        if any(mark.startswith(tail) for mark in marks):
            return length
    return 0

"""Finds tool calls in a streamed answer, in both spellings of the Phi-4 family.

    <|tool_call|>[{"name": "...", "arguments": {...}}]<|/tool_call|>
    functools[{"name": "...", "arguments": {...}}]

Boundary: text pieces in; answer text, calls and reports of malformed calls out. Markup never reaches the answer text,
a call is given out as soon as its object is complete, and what cannot be read as a call is reported with its text,
never guessed at. Runs no tool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .stops import possible_start

OPENERS = ("<|tool_call|>", "functools[")
CLOSER = "<|/tool_call|>"
MAXIMUM_CALLS = 128
MAXIMUM_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Answer:
    """Ordinary text of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """One complete call: `index` counts the calls of an answer from 0, `arguments` is what the model wrote."""

    index: int
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class MalformedCall:
    """Text where a call was begun that cannot be read as one, and why."""

    text: str
    reason: str


Event = Answer | ToolCall | MalformedCall


def answer_message(text: str, calls: Sequence[ToolCall]) -> dict[str, object]:
    """An answer as the message that the next turn of its conversation brings along."""
    functions = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
    called = [{"type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": text, **({"tool_calls": called} if called else {})}


class ToolCallScanner:
    """Takes the pieces of one answer; the events do not depend on how the text was cut."""

    def __init__(self) -> None:
        self._held = ""
        self._objects: _ObjectReader | None = None
        self._calls = 0
        self._at_start = True

    def push(self, text: str) -> list[Event]:
        """The events that are certain after this piece."""
        self._held += text
        events: list[Event] = []
        while self._held:
            before = len(self._held)
            events += self._inside(self._objects) if self._objects is not None else self._outside()
            if len(self._held) == before:
                break
        return events

    def flush(self) -> list[Event]:
        """What is left at the end of the answer; a call that never ended is malformed."""
        if self._objects is not None:
            unfinished, self._objects = self._objects.unfinished + self._held, None
            self._held = ""
            return [MalformedCall(unfinished, "the answer ended inside the call")] if unfinished.strip() else []
        return self._answer(len(self._held))

    def _outside(self) -> list[Event]:
        openers = OPENERS if self._at_start else OPENERS[:1]
        opening = _first(self._held, openers)
        if opening is None:
            if self._at_start and any(opener.startswith(self._held.lstrip()) for opener in openers):
                return []
            return self._answer(len(self._held) - possible_start(self._held, openers))
        place, opener = opening
        if opener == OPENERS[1] and self._held[:place].strip():  # in the middle of prose the word is a word
            return self._answer(place)
        text, self._held = self._held[:place], self._held[place + len(opener):]
        self._objects = _ObjectReader(bracketed=opener == OPENERS[1])
        return [] if self._at_start and not text.strip() else self._texts(text)

    def _inside(self, objects: _ObjectReader) -> list[Event]:
        used, found, done = objects.read(self._held)
        self._held = self._held[used:]
        if done:
            self._objects = None
        return [self._call(text) if reason is None else MalformedCall(text, reason) for text, reason in found]

    def _call(self, text: str) -> Event:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return MalformedCall(text, f"it is not valid JSON ({error})")
        name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
        if not isinstance(name, str) or not name:
            return MalformedCall(text, "it has no name")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return MalformedCall(text, "its arguments are text that is not valid JSON")
        if not isinstance(arguments, dict):
            return MalformedCall(text, f"its arguments are a {type(arguments).__name__}, not an object")
        if self._calls >= MAXIMUM_CALLS:
            return MalformedCall(text, f"it is beyond the {MAXIMUM_CALLS} calls that one answer may make")
        self._calls += 1
        return ToolCall(self._calls - 1, name, arguments)

    def _answer(self, length: int) -> list[Event]:
        text, self._held = self._held[:length], self._held[length:]
        if text.strip():
            self._at_start = False
        return self._texts(text)

    def _texts(self, text: str) -> list[Event]:
        return [Answer(text)] if text else []


class _ObjectReader:
    """Cuts the text of one call list into complete objects, minding strings and nested brackets."""

    def __init__(self, *, bracketed: bool) -> None:
        self._bracketed = bracketed  # the opening bracket of the list was part of the opener
        self._part = ""
        self._depth = 0
        self._in_string = self._escaped = False

    @property
    def unfinished(self) -> str:
        """The object, or stray text, that has begun and not ended."""
        return self._part

    def read(self, text: str) -> tuple[int, list[tuple[str, str | None]], bool]:
        """Characters used, (object text, None) or (stray text, reason) pairs, and whether the list has ended."""
        found: list[tuple[str, str | None]] = []
        for position, character in enumerate(text):
            if self._depth == 0:
                ended = self._between(text, position, found)
                if ended is not None:
                    return ended, found, True
                if self._waits(text, position):
                    return position, found, False
            elif len(self._part) >= MAXIMUM_CHARACTERS:
                found.append((self._part[:200], f"it is longer than {MAXIMUM_CHARACTERS} characters"))
                return position, found, True
            self._step(character, found)
        return len(text), found, False

    def _between(self, text: str, position: int, found: list[tuple[str, str | None]]) -> int | None:
        """Where the list ends, if it ends at this position."""
        if text.startswith(CLOSER, position):
            self._stray(found)
            return position + len(CLOSER)
        if self._bracketed and text[position] == "]":
            self._stray(found)
            return position + 1
        return None

    def _waits(self, text: str, position: int) -> bool:
        return text[position] == CLOSER[0] and CLOSER.startswith(text[position:])

    def _stray(self, found: list[tuple[str, str | None]]) -> None:
        if self._part.strip():
            found.append((self._part.strip(), "it is not a JSON object"))
        self._part = ""

    def _step(self, character: str, found: list[tuple[str, str | None]]) -> None:
        if self._depth == 0 and (character in "[]," or character.isspace()):
            self._stray(found)
            return
        if self._depth == 0 and character == "{":
            self._stray(found)
        self._part += character
        if self._depth and self._in_string:
            self._in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif self._depth and character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]" and self._depth:
            self._depth -= 1
            if self._depth == 0:
                found.append((self._part, None))
                self._part = ""


def _first(text: str, openers: tuple[str, ...]) -> tuple[int, str] | None:
    places = [(text.find(opener), opener) for opener in openers if opener in text]
    return min(places) if places else None

"""One JSON object of a request, read member by member: kinds and ranges are checked, what nobody read is known.

Boundary: plain data; knows no endpoint. A member that is null counts as not given, as OpenAI's clients mean it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ..errors import RequestError

T = TypeVar("T")
LARGEST = (1 << 63) - 1


class Fields:
    """The members of `values`, which stands at `where` in the request (empty for the request itself)."""

    def __init__(self, values: object, where: str = "") -> None:
        """Raises RequestError where `values` is no object."""
        if not isinstance(values, Mapping):
            raise RequestError(f"{where or 'the request'} is {_shown(values)}; an object is needed")
        self._values = values
        self._where = where
        self._read: set[str] = set()
        self._inner: list[Fields] = []

    def raw(self, name: str) -> object:
        """Whatever the member holds; None where it is not given."""
        self._read.add(name)
        return self._values.get(name)

    def text(self, name: str) -> str | None:
        """A string. Raises RequestError."""
        return self._typed(name, str, "a string")

    def flag(self, name: str) -> bool:
        """True or false, false where it is not given. Raises RequestError."""
        return self._typed(name, bool, "true or false") or False

    def whole(self, name: str, low: int, high: int = LARGEST) -> int | None:
        """A whole number from `low` to `high`. Raises RequestError."""
        value = self.raw(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            to = "" if high == LARGEST else f" to {high}"
            raise self._wrong(name, value, f"a whole number from {low}{to}")
        return value

    def number(self, name: str) -> float | None:
        """A finite number. Raises RequestError."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(name, value, "a number")
        return float(value)

    def items(self, name: str) -> Sequence[object] | None:
        """A list. Raises RequestError."""
        return self._typed(name, list, "a list")

    def inner(self, name: str) -> Fields | None:
        """An object, whose unread members count as unread here. Raises RequestError."""
        value = self.raw(name)
        return None if value is None else self.nested(value, self.name_of(name))

    def nested(self, value: object, where: str) -> Fields:
        """An object that is part of this one and stands at `where`. Raises RequestError."""
        fields = Fields(value, where)
        self._inner.append(fields)
        return fields

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of some strings. Raises RequestError."""
        value = self.text(name)
        if value is not None and value not in allowed:
            raise self._wrong(name, value, f"one of {', '.join(allowed)}")
        return default if value is None else value

    def required(self, name: str, value: T | None) -> T:
        """`value`, which was read from `name`. Raises RequestError where it is not given."""
        if value is None:
            raise RequestError(f"{self.name_of(name)} is missing")
        return value

    def refuse(self, name: str, accepted: Sequence[object]) -> None:
        """Refuse a parameter that would change the answer in a way that is not offered, unless it asks for nothing.

        `accepted`: values that mean what happens anyway. Raises RequestError.
        """
        value = self.raw(name)
        if value is None or any(value == same and type(value) in (type(same), float) for same in accepted):
            return
        advice = f"leave it out or set it to {accepted[0]!r}" if accepted else "leave it out"
        raise RequestError(f"{self.name_of(name)} is {_shown(value)}, which this server does not offer: {advice}")

    def name_of(self, name: str) -> str:
        """The member as an error names it."""
        return f"{self._where}.{name}" if self._where else name

    def unread(self) -> tuple[str, ...]:
        """Members that were given and that nobody asked for, in order."""
        return tuple(self._unread())

    def _unread(self) -> Iterator[str]:
        yield from (self.name_of(str(name)) for name in self._values if name not in self._read)
        for fields in self._inner:
            yield from fields.unread()

    def _typed(self, name: str, kind: type[T], called: str) -> T | None:
        value = self.raw(name)
        if value is None or isinstance(value, kind):
            return value
        raise self._wrong(name, value, called)

    def _wrong(self, name: str, value: object, allowed: str) -> RequestError:
        return RequestError(f"{self.name_of(name)} is {_shown(value)}; allowed is {allowed}")


def _shown(value: object) -> str:
    """A short form of foreign data."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"{value!r:.60}"

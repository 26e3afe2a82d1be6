"""How an answer is to be made: the options that `edgephi run` and the `/set` of a conversation share.

Boundary: names, types and their text; which values make sense is the session's to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError

if TYPE_CHECKING:
    from ..options import Options


@dataclass(frozen=True)
class Settings:
    """The sampling arguments of `Session.stream`; None leaves a choice to the bundle."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def options(self) -> Options:
        """Keyword arguments for `Session.stream`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "stop": self.stop,
        }

    def changed(self, name: str, text: str) -> Settings:
        """The same settings with one of them read from `text`; "default" takes it back. Raises RequestError."""
        name = {"temp": "temperature", "n": "max_tokens"}.get(name, name.replace("-", "_"))
        if name not in PARSERS:
            raise RequestError(f"there is no setting {name!r}; the settings are {', '.join(PARSERS)}")
        value: Any = () if name == "stop" else None
        if text not in ("default", "none"):
            try:
                value = (*self.stop, text) if name == "stop" else PARSERS[name](text)
            except ValueError as error:
                kind = "a whole number" if PARSERS[name] is int else "a number"
                raise RequestError(f"{name} is {text!r}; it must be {kind}, or 'default'") from error
        return dataclasses.replace(self, **{name: value})

    def lines(self) -> list[str]:
        """One line for each setting."""
        values = {name: getattr(self, name) for name in PARSERS}
        return [f"{name:20}{'default' if value in (None, ()) else value}" for name, value in values.items()]


PARSERS: dict[str, Callable[[str], object]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "stop": str,
}

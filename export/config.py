"""Strict reader of config.json and generation_config.json: every value is asked for by name and type, none is guessed.

Boundary: knows JSON values, not models. What a family neither reads nor ignores is reported, so that a setting which
changes the model cannot go unnoticed. Nothing in a configuration is ever imported or run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..runtime.errors import ConfigMismatch
from ..runtime.manifest import MAXIMUM_BYTES, RecommendedSampling, Tokens, parse_object
from ..runtime.manifest_types import MAXIMUM_INTEGER, printable

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
ADVICE = "check the checkpoint"
LARGEST_COUNT = 1 << 20  # of heads, layers, rows, positions: far beyond any model, far below any overflow

T = TypeVar("T")
D = TypeVar("D")


class ConfigReader:
    """One JSON object; remembers which keys were asked for. `path` is the file that it came from."""

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix
        self._read: set[str] = set()
        self._sections: dict[str, ConfigReader] = {}

    def require(self, key: str, kind: type[T]) -> T:
        """The value of `key`, which must be there and be a `kind`; an integer passes for a float.

        Raises ConfigMismatch.
        """
        value = self._take(key, kind)
        if value is None:
            raise ConfigMismatch(
                f"{self.path}: {self._prefix}{key} is missing, a {kind.__name__} is needed: {ADVICE}, or fetch it again"
            )
        return value

    def optional(self, key: str, kind: type[T], default: D) -> T | D:
        """The value of `key`, or `default` where it is absent or null. Raises ConfigMismatch for another type."""
        value = self._take(key, kind)
        return default if value is None else value

    def count(self, key: str, largest: int = LARGEST_COUNT) -> int:
        """The value of `key`: an integer from 1 to `largest`. Raises ConfigMismatch, also where it is missing."""
        value = self.require(key, int)
        if not 1 <= value <= largest:
            raise ConfigMismatch(
                f"{self.path}: {self._prefix}{key} is {value}, a count from 1 to {largest} is needed: {ADVICE}"
            )
        return value

    def expect(self, key: str, *allowed: object, default: object = None) -> None:
        """The value of `key` (or `default`, where it is absent or null) must be among `allowed`.

        Raises ConfigMismatch.
        """
        self._read.add(key)
        value = self._values.get(key)
        found = default if value is None else value
        if not any(type(found) is type(option) and found == option for option in allowed):
            options = " or ".join(repr(option) for option in allowed)
            raise ConfigMismatch(
                f"{self.path}: {self._prefix}{key} is {printable(found)}, this family implements {options}: "
                "use a checkpoint of that kind"
            )

    def ignore(self, *keys: str) -> None:
        """These keys are known and change nothing of the exported model."""
        self._read.update(keys)

    def optional_list(self, key: str) -> tuple[object, ...]:
        """The entries of a list, the one value that stands for a list of one, or nothing where it is absent or null."""
        self._read.add(key)
        value = self._values.get(key)
        return () if value is None else tuple(value) if isinstance(value, list) else (value,)

    def section(self, key: str) -> ConfigReader | None:
        """The object under `key`, or None where it is absent or null. Raises ConfigMismatch if it is no object."""
        value = self._take(key, dict)
        if value is None:
            return None
        return self._sections.setdefault(key, ConfigReader(self.path, value, f"{self._prefix}{key}."))

    def architecture(self) -> str:
        """The one entry of `architectures`. Raises ConfigMismatch."""
        names = self.require("architectures", list)
        if len(names) != 1 or not isinstance(names[0], str):
            raise ConfigMismatch(
                f"{self.path}: architectures is {printable(names)}, a list of exactly one name is needed: {ADVICE}"
            )
        return names[0]

    def unread(self) -> tuple[str, ...]:
        """Keys, with the sections they lie in, that nobody asked for or ignored; in alphabetical order."""
        own = [f"{self._prefix}{key}" for key in self._values.keys() - self._read]
        return tuple(sorted([*own, *(name for section in self._sections.values() for name in section.unread())]))

    def _take(self, key: str, kind: type[T]) -> T | None:
        self._read.add(key)
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) is int and abs(value) <= MAXIMUM_INTEGER and kind is float:
            value = float(value)
        # exact types: bool is a subclass of int, yet `true` is no count
        if isinstance(value, kind) and type(value) is kind and not _oversized(value):
            return value
        raise ConfigMismatch(
            f"{self.path}: {self._prefix}{key} is {printable(value)}, a {kind.__name__} is needed: {ADVICE}"
        )


def _oversized(value: object) -> bool:
    return isinstance(value, int) and abs(value) > MAXIMUM_INTEGER


def read_config(path: Path) -> ConfigReader:
    """Open a configuration file of at most 8 MB. Raises ConfigMismatch if it is missing or no strict JSON object."""
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise ConfigMismatch(
            f"{path} cannot be read ({error.strerror}): give a folder that holds {path.name} and *.safetensors files"
        ) from error
    if len(data) > MAXIMUM_BYTES:
        raise ConfigMismatch(f"{path} is larger than the {MAXIMUM_BYTES} bytes that are allowed: {ADVICE}")
    return ConfigReader(path, parse_object(data, str(path), ConfigMismatch, ADVICE))


@dataclass(frozen=True)
class Generation:
    """Token ids with a meaning and the publisher's sampling settings."""

    tokens: Tokens
    sampling: RecommendedSampling


def read_generation(folder: Path, vocabulary: int, turn_ends: tuple[int, ...]) -> Generation:
    """Read generation_config.json; config.json gives the token ids that it leaves out.

    Without the file, `turn_ends` end an answer too: config.json of Phi-4-mini does not name the end of a turn. Raises
    ConfigMismatch, also for ids that a `vocabulary` of that size lacks.
    """
    model = read_config(folder / CONFIG_NAME)
    path = folder / GENERATION_NAME
    published = path.is_file()
    own = read_config(path) if published else ConfigReader(path, {})

    def ids(key: str) -> tuple[int, ...]:
        return _ids(own, key, vocabulary) or _ids(model, key, vocabulary)

    bos, eos, pad = (ids(f"{name}_token_id") for name in ("bos", "eos", "pad"))
    eos = eos if published else (*eos, *turn_ends)
    if not eos:
        raise ConfigMismatch(
            f"{path}: neither it nor {CONFIG_NAME} has an eos_token_id, so no answer would ever end: "
            "add the id of the token that ends an answer"
        )
    sampling = RecommendedSampling(
        do_sample=own.optional("do_sample", bool, None),
        temperature=_number(own, "temperature", 0.0, None),
        top_k=_count(own, "top_k"),
        top_p=_number(own, "top_p", 0.0, 1.0),
        min_p=_number(own, "min_p", 0.0, 1.0),
        repetition_penalty=_number(own, "repetition_penalty", 0.0, None),
    )
    tokens = Tokens(bos[0] if bos else None, tuple(dict.fromkeys(eos)), pad[0] if pad else None)
    return Generation(tokens, sampling)


def _ids(raw: ConfigReader, key: str, vocabulary: int) -> tuple[int, ...]:
    """One id or a list of them; empty where there is none."""
    values = raw.optional_list(key)
    wrong = [value for value in values if type(value) is not int or not 0 <= value < vocabulary]
    if wrong:
        raise ConfigMismatch(
            f"{raw.path}: {key} holds {printable(wrong[0])}, a token id below {vocabulary} is needed: {ADVICE}"
        )
    return tuple(value for value in values if isinstance(value, int))


def _number(raw: ConfigReader, key: str, low: float, high: float | None) -> float | None:
    value = raw.optional(key, float, None)
    if value is not None and (value < low or (high is not None and value > high)):
        upper = "" if high is None else f" to {high:g}"
        raise ConfigMismatch(f"{raw.path}: {key} is {value:g}, a number from {low:g}{upper} is needed: {ADVICE}")
    return value


def _count(raw: ConfigReader, key: str) -> int | None:
    value = raw.optional(key, int, None)
    if value is not None and value < 0:
        raise ConfigMismatch(f"{raw.path}: {key} is {value}, a count from 0 is needed: {ADVICE}")
    return value

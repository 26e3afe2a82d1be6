"""JSON values → frozen dataclasses, exactly as annotated; what does not fit is refused, nothing is converted.

Boundary: standard library only; knows types, not what they mean.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import ManifestError

EXPORT_AGAIN = "export the checkpoint again"
MAXIMUM_INTEGER = 1 << 53  # above it JSON readers of other languages round

T = TypeVar("T")


def build_dataclass(kind: type[T], value: object, where: str) -> T:
    """Turn a parsed JSON object into the dataclass `kind`; keys without a default must be there, others may not.

    Raises ManifestError saying what does not fit and `where`.
    """
    if not isinstance(value, Mapping):
        raise ManifestError(f"{where}: {printable(value)} is not an object: {EXPORT_AGAIN}")
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # checked by the caller
    unknown = sorted(value.keys() - fields.keys())
    missing = sorted(
        name for name, item in fields.items()
        if name not in value and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise ManifestError(f"{where}: unknown keys {printable(unknown)}, missing keys {missing}: {EXPORT_AGAIN}")
    return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def printable(text: object) -> str:
    """A short form of foreign text that is safe on a terminal: escapes, quotes and at most 80 characters."""
    shown = ascii(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into the annotated type `kind`; refuse what does not fit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build_dataclass(kind, value, where)
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _build(arguments[1], item, f"{where}[{printable(key)}]") for key, item in value.items()}
    if kind is float and type(value) is int and abs(value) <= MAXIMUM_INTEGER:
        return float(value)
    # exact types: bool is a subclass of int, yet `true` is no count
    if origin is None and type(value) is kind and not (kind is int and abs(value) > MAXIMUM_INTEGER):
        return value
    raise ManifestError(f"{where}: {printable(value)} is not a {getattr(kind, '__name__', kind)}: {EXPORT_AGAIN}")

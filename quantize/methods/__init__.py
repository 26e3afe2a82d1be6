"""ONE FILE PER METHOD, found by listing this folder; each defines `quantize`, as `Method` states it.

A method is separable by rows: the bytes of a row do not depend on which other rows were given with it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

import numpy as np

from ..formats import BlockFormat, QuantizedTensor


class Method(Protocol):
    """What every file of this folder provides."""

    def quantize(self, weight: np.ndarray, fmt: BlockFormat, importance: np.ndarray | None) -> QuantizedTensor:
        """Rows (n, k) float32 in blocks; `importance` (k,) float32 weighs the error of each input, None all alike.

        Raises ValueError for values that are not finite or too large for the format.
        """


def names() -> tuple[str, ...]:
    """The methods of this version, in alphabetical order."""
    return tuple(sorted(item.name for item in pkgutil.iter_modules(__path__)))


def find(name: str) -> Method:
    """The method of this name. Raises ValueError naming those that exist."""
    if name not in names():
        raise ValueError(f"quantization method {name!r} is not known: choose one of {', '.join(names())}")
    return cast(Method, importlib.import_module(f".{name}", __package__))

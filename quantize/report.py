"""What a stored weight lost: squared errors that add up over row slices, and the record of one tensor.

Boundary: numbers only; knows formats by name and size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from .formats import FloatFormat, Format


@dataclass(frozen=True)
class TensorReport:
    """One stored weight: bytes in the checkpoint and in the bundle, and the error of what was stored.

    `relative_error` is ‖stored − original‖ / ‖original‖ (Frobenius), of a screened head that of its exact form.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    relative_error: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a journal."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TensorReport:
        """The inverse of `to_json`. Raises KeyError or TypeError for another record."""
        return cls(
            str(record["name"]), str(record["format"]), tuple(int(size) for size in record["shape"]),
            int(record["bytes_before"]), int(record["bytes_after"]), float(record["relative_error"]),
        )


@dataclass(frozen=True)
class ErrorSums:
    """Sums of squares over the rows seen so far, in float64."""

    error: float = 0.0
    original: float = 0.0

    @classmethod
    def between(cls, original: np.ndarray, stored: np.ndarray) -> ErrorSums:
        """The sums of two float32 arrays of one shape."""
        return cls(_sum_of_squares(stored - original), _sum_of_squares(original))

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(self.error + other.error, self.original + other.original)

    def report(self, name: str, fmt: Format, shape: tuple[int, ...], bytes_before: int) -> TensorReport:
        """The record of the whole weight."""
        nbytes = fmt.nbytes(prod(shape)) if isinstance(fmt, FloatFormat) else fmt.nbytes(shape[0], shape[1])
        relative = math.sqrt(self.error / self.original) if self.error else 0.0
        return TensorReport(name, str(fmt), shape, bytes_before, nbytes, relative)


def _sum_of_squares(values: np.ndarray) -> float:
    """In float64, row by row, so that no float64 copy of the whole array is made."""
    return float(sum(np.square(row, dtype=np.float64).sum() for row in values.reshape(len(values), -1)))

"""One weight, row slice by row slice, from float32 rows to the bytes of its stored parts.

Boundary: knows formats and methods; reading and writing are functions given by the caller. Memory is bounded by
`SLICE_ELEMENTS` per thread, whatever the size of the weight: every format of this package is separable by rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np

from .formats import (
    SCREEN,
    BlockFormat,
    FloatFormat,
    Format,
    QuantizedTensor,
    ScreenedFormat,
    dequantize,
    require_finite,
)
from .methods import Method
from .report import ErrorSums, TensorReport

SLICE_ELEMENTS = 4 << 20

ReadRows = Callable[[int, int], np.ndarray]
WritePart = Callable[[str, int, np.ndarray], None]


@dataclass(frozen=True)
class WeightJob:
    """What is to be stored: `read(start, stop)` gives float32 rows, `write(kind, byte offset, array)` takes a part."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    read: ReadRows
    write: WritePart


def store(job: WeightJob, fmt: Format, method: Method, importance: np.ndarray | None, threads: int) -> TensorReport:
    """Convert and write the whole weight on `threads` threads.

    Raises ValueError, naming the weight, for values that are not finite or that the format cannot hold.
    """

    def one_slice(rows: tuple[int, int]) -> ErrorSums:
        weight = job.read(*rows)
        require_finite(weight, job.name, rows[0])
        if isinstance(fmt, FloatFormat):
            return _store_floats(job, fmt, weight, rows[0])
        exact = fmt.exact if isinstance(fmt, ScreenedFormat) else fmt
        if isinstance(fmt, ScreenedFormat):
            _store_blocks(job, _quantized(job, weight, fmt.screen, method, importance, rows), rows[0], SCREEN)
        quantized = _quantized(job, weight, exact, method, importance, rows)
        _store_blocks(job, quantized, rows[0])
        return ErrorSums.between(weight, dequantize(quantized))

    sums = ErrorSums()
    slices = row_slices(job.shape)
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(one_slice, slices):
            sums = sums + part
    return sums.report(job.name, fmt, job.shape, job.bytes_before)


def row_slices(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Row ranges of at most about SLICE_ELEMENTS values each; a vector counts as one column."""
    rows = shape[0]
    step = max(1, SLICE_ELEMENTS // max(1, prod(shape[1:])))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _quantized(
    job: WeightJob, weight: np.ndarray, fmt: BlockFormat, method: Method, importance: np.ndarray | None,
    rows: tuple[int, int],
) -> QuantizedTensor:
    try:
        return method.quantize(weight, fmt, importance)
    except ValueError as error:
        raise ValueError(f"{job.name}, rows {rows[0]} to {rows[1] - 1}: {error}") from error


def _store_blocks(job: WeightJob, quantized: QuantizedTensor, row: int, form: str = "") -> None:
    parts: Mapping[str, np.ndarray | None] = {
        "codes": quantized.codes_packed, "scales": quantized.scales, "zero_points": quantized.zero_points,
    }
    for kind, array in parts.items():
        if array is not None:
            job.write(form + kind, row * array.nbytes // len(array), array)


def _store_floats(job: WeightJob, fmt: FloatFormat, weight: np.ndarray, row: int) -> ErrorSums:
    with np.errstate(over="ignore"):
        stored = weight.astype(fmt.dtype)
    if not np.isfinite(stored).all():
        reach = np.finfo(fmt.dtype).max
        raise ValueError(f"{job.name} holds {np.abs(weight).max():.3g}, {fmt.dtype} reaches {reach:.3g}")
    job.write("values", row * stored.nbytes // len(stored), stored)
    return ErrorSums.between(weight, stored.astype(np.float32))

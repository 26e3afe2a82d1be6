"""Searched grids: per block the scale and whole zero point with the least weighted squared error of a few dozen tried.

A candidate stretches or shrinks the span of the block and shifts the zero point; its scale is then refitted in closed
form (weighted least squares with the codes fixed), rounded to float16 and judged with codes rounded again on that
stored grid, so what is compared is what will be computed. The grid of `round_to_nearest` is the first candidate: no
block gets worse than there, up to the rounding of a float32 sum.

Blocks lie in columns here: a sum over a block is then an addition of whole rows, in one order whatever the number of
blocks, which makes the result independent of how a weight is cut into slices. Only positive scales are tried, since
some runtimes refuse negative ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..formats import LARGEST_SCALE, SMALLEST_SCALE, BlockFormat, QuantizedTensor, encode, split_blocks
from .round_to_nearest import spanning_grids

CHUNK_ELEMENTS = 1 << 17  # three such float32 arrays stay in a cache of 2 MiB

# (step, shift): the span is divided into largest_code + step intervals, the zero point is moved by shift. Measured on
# t(5) and t(12)-distributed rows: finer steps or shifts of two gain less than 0.05 % of the error; steps of more than 2
# gain nothing where all values count alike, and 2 % where importance is uneven.
_ASYMMETRIC = tuple((step, shift) for step in (-1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6, 10, 20) for shift in (0, -1, 1))
_SYMMETRIC = tuple((step, 0) for step in (*np.arange(-1, 2, 0.25), 2, 3, 4, 6, 10))
_FINE = ((0.0, 0),)  # at 8 bits the span is right already, only the refit of the scale gains something
_REFITS = 2


@dataclass(frozen=True)
class _Columns:
    """Blocks as columns (block_size, m), the importance of each value or None, and their product."""

    values: np.ndarray
    importance: np.ndarray | None
    weighted: np.ndarray


@dataclass
class _Best:
    """The best grids so far, (m,) each."""

    error: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray


def quantize(weight: np.ndarray, fmt: BlockFormat, importance: np.ndarray | None) -> QuantizedTensor:
    """Quantize rows (n, k) float32; `importance` (k,) weighs the squared error of each input, None weighs all alike.

    Raises ValueError for values that are not finite or too large and for importance that is misshapen, negative or not
    finite.
    """
    blocks = split_blocks(weight, fmt)
    n, per_row, size = blocks.shape
    weights = None if importance is None else _importance_columns(importance, weight.shape[1], per_row, size)
    scales, zero_points = np.empty((n, per_row), np.float32), np.empty((n, per_row), np.float32)
    step = max(1, CHUNK_ELEMENTS // (per_row * size))
    for start in range(0, n, step):
        chunk = blocks[start : start + step]
        best = _search(_columns(chunk.reshape(-1, size), weights), fmt)
        count = len(chunk) * per_row
        scales[start : start + step] = best.scales[:count].reshape(-1, per_row)
        zero_points[start : start + step] = best.zero_points[:count].reshape(-1, per_row)
    return encode(blocks, scales, zero_points, fmt, weight.shape[1])


def _importance_columns(importance: np.ndarray, k: int, per_row: int, size: int) -> np.ndarray | None:
    """(k,) → (size, per_row), padding 0 and the largest 1; None where every input counts for nothing."""
    if importance.shape != (k,) or not np.isfinite(importance).all() or importance.min() < 0:
        raise ValueError(
            f"importance is of shape {list(importance.shape)}, from {importance.min()} to {importance.max()}; "
            f"it must be {k} finite numbers that are not negative, one for each input"
        )
    largest = importance.max()
    if largest == 0:
        return None
    padded = np.zeros(per_row * size, np.float32)
    padded[:k] = importance / largest
    return np.ascontiguousarray(padded.reshape(per_row, size).T)


def _columns(blocks: np.ndarray, weights: np.ndarray | None) -> _Columns:
    """(m, size) → columns. A lone block is doubled: numpy sums a single column in another order than many."""
    if len(blocks) == 1:
        blocks = np.repeat(blocks, 2, axis=0)
    values = np.ascontiguousarray(blocks.T)
    if weights is None:
        return _Columns(values, None, values)
    repeats = -(-values.shape[1] // weights.shape[1])
    importance = np.ascontiguousarray(np.tile(weights, (1, repeats))[:, : values.shape[1]])
    return _Columns(values, importance, values * importance)


def _search(columns: _Columns, fmt: BlockFormat) -> _Best:
    smallest, largest = columns.values.min(axis=0), columns.values.max(axis=0)
    scales, zero_points = spanning_grids(smallest, largest, fmt)
    scratch = np.empty_like(columns.values), np.empty_like(columns.values)
    _round(columns, scales, zero_points, fmt, scratch[0])
    best = _Best(_error(columns, scratch[0], scales), scales, zero_points)
    low, high = np.minimum(smallest, 0), np.maximum(largest, 0)
    candidates = _FINE if fmt.bits == 8 else _SYMMETRIC if fmt.symmetric else _ASYMMETRIC
    for step, shift in candidates:
        _improve(best, columns, *_start(low, high, step, shift, fmt), fmt, scratch)
    for _ in range(_REFITS):
        _improve(best, columns, best.scales, best.zero_points, fmt, scratch)
    return best


def _improve(
    best: _Best, columns: _Columns, start: np.ndarray, points: np.ndarray, fmt: BlockFormat,
    scratch: tuple[np.ndarray, np.ndarray],
) -> None:
    """Refit the scale of a grid and keep the result for the blocks that it serves better."""
    codes, product = scratch
    _round(columns, start, points, fmt, codes)
    refitted = _refit(columns, codes, start, product)
    _round(columns, refitted, points, fmt, codes)
    error = _error(columns, codes, refitted)
    better = error < best.error
    np.copyto(best.error, error, where=better)
    np.copyto(best.scales, refitted, where=better)
    np.copyto(best.zero_points, points, where=better)


def _start(
    low: np.ndarray, high: np.ndarray, step: float, shift: int, fmt: BlockFormat
) -> tuple[np.ndarray, np.ndarray]:
    """The scale before its refit and the zero point of one candidate."""
    if fmt.symmetric:
        negative = np.float32(fmt.middle_code + step)
        scales = _bounded(np.maximum(-low / negative, high / (negative - 1)))
        return scales, np.full_like(scales, fmt.middle_code)
    intervals = np.float32(fmt.largest_code + step)
    scales = _bounded(high / intervals - low / intervals)
    return scales, np.clip(np.rint(-low / scales) + np.float32(shift), 0, fmt.largest_code)


def _round(columns: _Columns, scales: np.ndarray, zero_points: np.ndarray, fmt: BlockFormat, codes: np.ndarray) -> None:
    """Codes relative to the zero point, as `formats.encode` rounds them."""
    np.multiply(columns.values, np.float32(1) / scales, out=codes)
    np.rint(codes, out=codes)
    np.maximum(codes, -zero_points, out=codes)
    np.minimum(codes, fmt.largest_code - zero_points, out=codes)


def _refit(columns: _Columns, codes: np.ndarray, start: np.ndarray, product: np.ndarray) -> np.ndarray:
    """argmin over s of Σ w (s·c − x)² = Σ w c x / Σ w c², as float16 holds it; `start` where no code counts."""
    np.multiply(columns.weighted, codes, out=product)
    numerator = np.add.reduce(product, axis=0)
    np.multiply(codes, codes, out=product)
    if columns.importance is not None:
        product *= columns.importance
    denominator = np.add.reduce(product, axis=0)
    refitted = np.divide(numerator, denominator, out=start.copy(), where=denominator > 0)
    return _bounded(refitted).astype(np.float16).astype(np.float32)


def _error(columns: _Columns, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Σ w (s·c − x)² of each block; overwrites `codes`."""
    codes *= scales
    codes -= columns.values
    codes *= codes
    if columns.importance is not None:
        codes *= columns.importance
    error: np.ndarray = np.add.reduce(codes, axis=0)
    return error


def _bounded(scales: np.ndarray) -> np.ndarray:
    bounded: np.ndarray = np.clip(scales, np.float32(SMALLEST_SCALE), np.float32(LARGEST_SCALE))
    return bounded

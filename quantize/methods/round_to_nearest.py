"""Round to nearest: the grid of a block spans its smallest and largest value; no importance, no search.

The baseline that every other method must beat, and the quickest.
"""

from __future__ import annotations

import numpy as np

from ..formats import BlockFormat, QuantizedTensor, encode, split_blocks, storable_scales


def quantize(weight: np.ndarray, fmt: BlockFormat, importance: np.ndarray | None) -> QuantizedTensor:
    """Quantize rows (n, k) float32; `importance` has no influence.

    Raises ValueError for values that are not finite or too large.
    """
    blocks = split_blocks(weight, fmt)
    scales, zero_points = spanning_grids(blocks.min(axis=2), blocks.max(axis=2), fmt)
    return encode(blocks, scales, zero_points, fmt, weight.shape[1])


def spanning_grids(smallest: np.ndarray, largest: np.ndarray, fmt: BlockFormat) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points, both float32, of grids from the smallest to the largest value of each block and zero.

    Scales are numbers of float16 and positive: some runtimes refuse negative ones. A block of zeros has the scale 1.
    Raises ValueError above float16's range.
    """
    low, high = np.minimum(smallest, 0, dtype=np.float32), np.maximum(largest, 0, dtype=np.float32)
    if fmt.symmetric:
        middle = np.float32(fmt.middle_code)
        ideal = np.maximum(-low / middle, high / (middle - 1))
        scales = storable_scales(np.where(ideal > 0, ideal, np.float32(1)))
        return scales, np.full_like(scales, middle)
    ideal = high / fmt.largest_code - low / fmt.largest_code  # not (high − low), which could overflow
    scales = storable_scales(np.where(ideal > 0, ideal, np.float32(1)))
    return scales, np.clip(np.rint(-low / scales), 0, fmt.largest_code)

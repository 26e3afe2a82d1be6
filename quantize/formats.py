"""How a weight is stored: formats, the packing of blocks, and `dequantize`, which defines what blocks mean.

Boundary: numpy arrays in, numpy arrays out; knows nothing of methods, graphs or files. The layout is the one of ONNX
Runtime's contrib operators MatMulNBits and GatherBlockQuantized: blocks along the inputs of a row, one float16 scale a
block, codes packed from the low bits upwards, the last block of a row padded. value = (code − zero point) · scale; a
symmetric format has the zero point 2^(bits − 1) and does not store it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

SMALLEST_BLOCK = 16
LARGEST_BLOCK = 256
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)
LARGEST_SCALE = float(np.finfo(np.float16).max)
SCREEN = "screen_"  # begins the names of the stored parts of a head's screen


@dataclass(frozen=True)
class FloatFormat:
    """Every value as a float of its own."""

    dtype: Literal["float32", "float16"]

    def __str__(self) -> str:
        return self.dtype

    def nbytes(self, elements: int) -> int:
        """Stored size of that many values."""
        return elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class BlockFormat:
    """Codes of 4 or 8 bits for an (n, k) matrix of n outputs, and one scale for every `block_size` inputs of each."""

    bits: int
    block_size: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"a block format of {self.bits} bits is not implemented; 4 and 8 are")
        if not SMALLEST_BLOCK <= self.block_size <= LARGEST_BLOCK or self.block_size & (self.block_size - 1):
            raise ValueError(
                f"block size {self.block_size} has no kernel; powers of two from {SMALLEST_BLOCK} to {LARGEST_BLOCK} do"
            )

    def __str__(self) -> str:
        return f"{'int' if self.symmetric else 'uint'}{self.bits}-block{self.block_size}"

    @property
    def largest_code(self) -> int:
        """15 or 255."""
        return (1 << self.bits) - 1

    @property
    def middle_code(self) -> int:
        """The zero point of a symmetric format: 8 or 128."""
        return 1 << (self.bits - 1)

    def blocks(self, k: int) -> int:
        """Blocks of a row of k inputs; the last may be padded."""
        return -(-k // self.block_size)

    def weight_shape(self, n: int, k: int) -> tuple[int, int, int]:
        """Shape of the packed codes, uint8."""
        return n, self.blocks(k), self.block_size * self.bits // 8

    def scales_shape(self, n: int, k: int) -> tuple[int, int]:
        """Shape of the float16 scales."""
        return n, self.blocks(k)

    def zero_points_shape(self, n: int, k: int) -> tuple[int, int] | None:
        """Shape of the packed zero points, uint8; each row starts on a byte. None for a symmetric format."""
        return None if self.symmetric else (n, -(-self.blocks(k) * self.bits // 8))

    def nbytes(self, n: int, k: int) -> int:
        """Stored size of codes, scales and zero points."""
        zero_points = self.zero_points_shape(n, k)
        packed = prod(self.weight_shape(n, k)) + (0 if zero_points is None else prod(zero_points))
        return packed + prod(self.scales_shape(n, k)) * np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class ScreenedFormat:
    """A head in two forms: `screen` gives every row a logit, the `candidates` largest are made anew from `exact`.

    A token streams the screen and a few rows of the exact table, which serves as the embedding too.
    """

    screen: BlockFormat
    exact: BlockFormat
    candidates: int

    def __str__(self) -> str:
        return f"{self.exact}+{self.screen}"

    def nbytes(self, n: int, k: int) -> int:
        """Stored size of both forms."""
        return self.exact.nbytes(n, k) + self.screen.nbytes(n, k)


Format = FloatFormat | BlockFormat | ScreenedFormat


@dataclass(frozen=True)
class QuantizedTensor:
    """An (n, k) matrix in blocks: packed uint8 codes, float16 scales, uint8 zero points, in the shapes of `fmt`."""

    fmt: BlockFormat
    shape: tuple[int, int]
    codes_packed: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None


def split_blocks(weight: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """(n, k) float32 → (n, blocks, block_size) float32, the last block of each row padded with zeros.

    Raises ValueError for another shape or dtype and for values that are not finite, naming the first of them.
    """
    if weight.ndim != 2 or weight.dtype != np.float32 or not weight.size:
        raise ValueError(f"blocks are made of a float32 matrix, this is {weight.dtype} of shape {list(weight.shape)}")
    require_finite(weight, "the weight")
    n, k = weight.shape
    padding = fmt.blocks(k) * fmt.block_size - k
    padded = np.pad(weight, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(weight)
    return padded.reshape(n, fmt.blocks(k), fmt.block_size)


def require_finite(values: np.ndarray, name: str, first_row: int = 0) -> None:
    """Raise ValueError where a value is NaN or infinite; rows count from `first_row`."""
    with np.errstate(invalid="ignore"):
        total = np.sum(values, dtype=np.float64)
    if np.isfinite(total):  # float64 cannot overflow on float32 values: the sum is finite exactly if all of them are
        return
    bad = np.argwhere(~np.isfinite(values))
    where = [int(index) for index in bad[0]]
    found = values[tuple(where)]
    where[0] += first_row
    raise ValueError(f"{name} holds {found} at {where} and {len(bad) - 1} more values that are not finite")


def encode(
    blocks: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, fmt: BlockFormat, k: int
) -> QuantizedTensor:
    """Round blocks to the nearest codes of given grids and pack everything.

    `blocks` is (n, blocks, block_size) float32, `scales` (n, blocks) float32 that float16 holds exactly, `zero_points`
    (n, blocks) of whole numbers from 0 to `fmt.largest_code`; `k` is the number of inputs without padding.
    """
    codes = np.multiply(blocks, (np.float32(1) / scales)[..., None])
    np.rint(codes, out=codes)
    codes += zero_points.astype(np.float32)[..., None]
    np.clip(codes, 0, fmt.largest_code, out=codes)
    packed_zero_points = None if fmt.symmetric else _pack_zero_points(zero_points.astype(np.uint8), fmt)
    return QuantizedTensor(
        fmt, (len(blocks), k), pack(codes.astype(np.uint8), fmt.bits), scales.astype(np.float16), packed_zero_points,
    )


def storable_scales(scales: np.ndarray) -> np.ndarray:
    """Positive float32 scales as float16 holds them: too small ones are raised, ValueError for too large ones."""
    if scales.size and not scales.max() <= LARGEST_SCALE:
        raise ValueError(f"a block needs the scale {scales.max():.3g}; float16 reaches {LARGEST_SCALE:.0f}")
    stored: np.ndarray = np.maximum(scales, SMALLEST_SCALE).astype(np.float16).astype(np.float32)
    return stored


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 codes below 2^bits (..., m) → packed bytes (..., m·bits/8), low bits first."""
    if bits == 8:
        return codes
    packed: np.ndarray = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `pack`."""
    if bits == 8:
        return packed
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
    codes[..., 0::2] = packed & 0x0F
    codes[..., 1::2] = packed >> 4
    return codes


def dequantize(tensor: QuantizedTensor) -> np.ndarray:
    """What the operators of ONNX Runtime compute with: (n, k) float32."""
    fmt, (n, k) = tensor.fmt, tensor.shape
    if tensor.zero_points is None:
        zero_points = np.full((n, fmt.blocks(k)), fmt.middle_code, np.float32)
    else:
        zero_points = unpack(tensor.zero_points, fmt.bits)[:, : fmt.blocks(k)].astype(np.float32)
    values = unpack(tensor.codes_packed, fmt.bits).astype(np.float32)
    values -= zero_points[..., None]
    values *= tensor.scales.astype(np.float32)[..., None]
    return values.reshape(n, -1)[:, :k]


def _pack_zero_points(zero_points: np.ndarray, fmt: BlockFormat) -> np.ndarray:
    """(n, blocks) → rows of whole bytes; an odd last nibble is filled with the middle code."""
    odd = zero_points.shape[1] * fmt.bits % 8 != 0
    padded = np.pad(zero_points, ((0, 0), (0, 1)), constant_values=fmt.middle_code) if odd else zero_points
    return pack(padded, fmt.bits)

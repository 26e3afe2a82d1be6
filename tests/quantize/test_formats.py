"""Packing and shapes by hand and by property; what ONNX Runtime makes of them is in test_kernels.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgephi.quantize.formats import (
    BlockFormat,
    FloatFormat,
    QuantizedTensor,
    dequantize,
    encode,
    pack,
    require_finite,
    split_blocks,
    storable_scales,
    unpack,
)

BITS = st.sampled_from((4, 8))
BLOCK_SIZES = st.sampled_from((16, 32, 64, 128, 256))


def test_low_nibble_comes_first() -> None:
    assert pack(np.array([[1, 2, 15, 0]], np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert unpack(np.array([[0x21, 0x0F]], np.uint8), 4).tolist() == [[1, 2, 15, 0]]


@given(bits=BITS, rows=st.integers(1, 5), pairs=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_unpack_is_the_inverse_of_pack(bits: int, rows: int, pairs: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, 2 * pairs), np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, 2 * pairs * bits // 8)
    assert np.array_equal(unpack(packed, bits), codes)


@given(bits=BITS, size=BLOCK_SIZES, symmetric=st.booleans(), n=st.integers(1, 9), k=st.integers(1, 600))
def test_shapes_and_sizes_are_those_of_what_is_stored(bits: int, size: int, symmetric: bool, n: int, k: int) -> None:
    fmt = BlockFormat(bits, size, symmetric)
    blocks = split_blocks(np.ones((n, k), np.float32), fmt)
    scales, zero_points = np.ones(fmt.scales_shape(n, k), np.float32), np.full(fmt.scales_shape(n, k), 3.0)
    stored = encode(blocks, scales, zero_points, fmt, k)
    arrays = [stored.codes_packed, stored.scales] + ([] if stored.zero_points is None else [stored.zero_points])
    assert stored.codes_packed.shape == fmt.weight_shape(n, k)
    assert stored.scales.shape == fmt.scales_shape(n, k)
    assert (None if stored.zero_points is None else stored.zero_points.shape) == fmt.zero_points_shape(n, k)
    assert (stored.zero_points is None) == symmetric
    assert fmt.nbytes(n, k) == sum(array.nbytes for array in arrays)


def test_dequantize_by_hand() -> None:
    fmt = BlockFormat(4, 16)
    codes = np.arange(32, dtype=np.uint8).reshape(1, 2, 16) % 16
    tensor = QuantizedTensor(
        fmt, (1, 20), pack(codes, 4), np.array([[0.5, 2.0]], np.float16), np.array([[0x2F]], np.uint8),
    )
    expected = [(code - 15) * 0.5 for code in range(16)] + [(code - 2) * 2.0 for code in range(4)]
    assert dequantize(tensor).tolist() == [expected]
    assert dequantize(tensor).dtype == np.float32


def test_a_symmetric_format_has_the_middle_code_as_zero() -> None:
    fmt = BlockFormat(8, 16, symmetric=True)
    tensor = QuantizedTensor(
        fmt, (1, 16), np.arange(120, 136, dtype=np.uint8).reshape(1, 1, 16), np.full((1, 1), 0.25, np.float16), None,
    )
    assert dequantize(tensor).tolist() == [[(code - 128) * 0.25 for code in range(120, 136)]]


def test_an_odd_row_of_zero_points_ends_with_the_middle_code() -> None:
    fmt = BlockFormat(4, 16)
    blocks = split_blocks(np.zeros((2, 40), np.float32), fmt)
    zero_points = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    stored = encode(blocks, np.ones((2, 3), np.float32), zero_points, fmt, 40)
    assert stored.zero_points is not None
    assert stored.zero_points.tolist() == [[0x21, 0x83], [0x54, 0x86]]


@settings(deadline=None)
@given(bits=BITS, size=BLOCK_SIZES, k=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_encode_rounds_to_the_nearest_code(bits: int, size: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fmt = BlockFormat(bits, size)
    grid = fmt.scales_shape(3, k)
    scales = storable_scales(rng.uniform(1e-3, 1, grid).astype(np.float32))
    zero_points = rng.integers(0, fmt.largest_code + 1, grid).astype(np.float32)
    steps, zeros = (np.repeat(values, size, axis=1)[:, :k] for values in (scales, zero_points))
    weight = (rng.integers(0, fmt.largest_code + 1, (3, k)).astype(np.float32) - zeros) * steps
    # values that lie on the grid come back exactly
    assert np.array_equal(dequantize(encode(split_blocks(weight, fmt), scales, zero_points, fmt, k)), weight)
    # others inside of it move by half a step at most; 1e-5 of the span allows for the float32 product with 1 / scale
    shifted = weight + rng.uniform(-0.5, 0.5, (3, k)).astype(np.float32) * steps
    inside = np.clip(shifted, -zeros * steps, (fmt.largest_code - zeros) * steps)
    moved = np.abs(dequantize(encode(split_blocks(inside, fmt), scales, zero_points, fmt, k)) - inside)
    assert (moved <= steps * (0.5 + 1e-5 * fmt.largest_code)).all()


def test_scales_that_float16_cannot_hold() -> None:
    assert storable_scales(np.array([1e-12], np.float32))[0] == np.float32(2.0**-24)
    with pytest.raises(ValueError, match=r"scale 7e\+04; float16 reaches 65504"):
        storable_scales(np.array([1.0, 7e4], np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    weight = np.zeros((4, 8), np.float32)
    weight[2, 5] = bad
    with pytest.raises(ValueError, match=rf"layer.weight holds {bad} at \[102, 5\] and 0 more"):
        require_finite(weight, "layer.weight", 100)
    with pytest.raises(ValueError, match=r"\[2, 5\]"):
        split_blocks(weight, BlockFormat(4, 16))


def test_infinities_that_cancel_are_found() -> None:
    with pytest.raises(ValueError, match="and 1 more"):
        require_finite(np.array([np.inf, -np.inf, 1], np.float32), "norm")


def test_the_largest_floats_are_finite() -> None:
    require_finite(np.full((64, 64), np.finfo(np.float32).max), "weight")


@pytest.mark.parametrize("weight", [np.zeros(4, np.float32), np.zeros((2, 2)), np.zeros((0, 4), np.float32)])
def test_only_float32_matrices_are_cut_into_blocks(weight: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32 matrix"):
        split_blocks(weight, BlockFormat(4, 32))


@pytest.mark.parametrize(("bits", "size"), [(2, 32), (3, 32), (4, 8), (4, 512), (4, 48), (4, 0)])
def test_formats_without_a_kernel_are_refused(bits: int, size: int) -> None:
    with pytest.raises(ValueError, match=str(bits) if bits != 4 else str(size)):
        BlockFormat(bits, size)


def test_names_and_sizes_of_formats() -> None:
    assert str(BlockFormat(4, 64)) == "uint4-block64"
    assert str(BlockFormat(8, 128, symmetric=True)) == "int8-block128"
    assert str(FloatFormat("float16")) == "float16"
    assert (FloatFormat("float16").nbytes(10), FloatFormat("float32").nbytes(10)) == (20, 40)

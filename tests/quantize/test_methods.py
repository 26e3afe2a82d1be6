"""Every method of the folder: sound grids for any finite weight, the same bytes however rows are sliced; the search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgephi.quantize import methods
from edgephi.quantize.formats import BlockFormat, QuantizedTensor, dequantize
from edgephi.quantize.methods import grid_search

FORMATS = st.builds(
    BlockFormat, st.sampled_from((4, 8)), st.sampled_from((16, 32, 64, 128)), st.booleans(),
)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 200))
MAGNITUDES = st.floats(-30, 4)
# float16 stores scales: blocks beyond 65504 · 7 are refused, which a test of its own covers
FINITE = st.floats(-4e5, 4e5, width=32)


def rows(shape: tuple[int, int], seed: int, magnitude: float) -> np.ndarray:
    """Heavy-tailed rows; every third row is 100 times smaller, some values are exactly zero."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(4, shape) * 10.0**magnitude
    weight[::3] *= 0.01
    weight[rng.random(shape) < 0.05] = 0
    clipped: np.ndarray = np.clip(weight, -4e5, 4e5).astype(np.float32)
    return clipped


def uneven_importance(k: int, seed: int) -> np.ndarray:
    """Importance over many magnitudes, some of it zero."""
    rng = np.random.default_rng(seed + 1)
    importance = np.exp(rng.normal(0, 2, k)).astype(np.float32)
    importance[rng.random(k) < 0.1] = 0
    return importance


def weighted_error(tensor: QuantizedTensor, weight: np.ndarray, importance: np.ndarray | None) -> float:
    squares = np.square(dequantize(tensor).astype(np.float64) - weight)
    return float((squares if importance is None else squares * importance).sum())


def same(left: QuantizedTensor, right: QuantizedTensor) -> bool:
    zero_points = (left.zero_points is None and right.zero_points is None) or (
        left.zero_points is not None and right.zero_points is not None
        and np.array_equal(left.zero_points, right.zero_points)
    )
    codes = np.array_equal(left.codes_packed, right.codes_packed)
    return zero_points and codes and np.array_equal(left.scales, right.scales)


def test_the_folder_is_the_list() -> None:
    assert {"grid_search", "round_to_nearest"} <= set(methods.names())
    assert methods.find("grid_search") is grid_search
    with pytest.raises(ValueError, match=r"'gptq_v9' is not known: choose one of .*grid_search"):
        methods.find("gptq_v9")


@pytest.mark.parametrize("name", methods.names())
@settings(deadline=None, max_examples=60)
@given(fmt=FORMATS, data=st.data())
def test_any_finite_weight_gives_a_sound_grid(name: str, fmt: BlockFormat, data: st.DataObject) -> None:
    weight = data.draw(arrays.arrays(np.float32, SHAPES, elements=FINITE))
    tensor = methods.find(name).quantize(weight, fmt, None)
    n, k = weight.shape
    assert (tensor.fmt, tensor.shape) == (fmt, (n, k))
    assert tensor.codes_packed.shape == fmt.weight_shape(n, k)
    assert (tensor.scales > 0).all() and np.isfinite(tensor.scales).all()
    # every grid includes zero
    assert np.isfinite(dequantize(tensor)).all()
    assert (dequantize(tensor)[weight == 0] == 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None, max_examples=60)
@given(shape=SHAPES, size=st.sampled_from((16, 32, 64, 128)), seed=st.integers(0, 2**31), magnitude=MAGNITUDES)
def test_round_to_nearest_moves_nothing_by_more_than_a_step(
    bits: int, symmetric: bool, shape: tuple[int, int], size: int, seed: int, magnitude: float,
) -> None:
    fmt = BlockFormat(bits, size, symmetric)
    weight = rows(shape, seed, magnitude)
    tensor = methods.find("round_to_nearest").quantize(weight, fmt, None)
    steps = np.repeat(tensor.scales.astype(np.float64), size, axis=1)[:, : shape[1]]
    # Half a step by rounding the value, half by rounding the zero point; rounding the scale to float16 (2^-11, or half
    # of 2^-24 among its smallest numbers) moves the far end of the grid by that share of all its steps.
    slack = fmt.largest_code * (2.0**-11 + 2.0**-25 / steps)
    assert (np.abs(dequantize(tensor) - weight) <= steps * (1 + slack)).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@settings(deadline=None, max_examples=60)
@given(
    shape=SHAPES, size=st.sampled_from((16, 32, 64, 128)), seed=st.integers(0, 2**31), magnitude=MAGNITUDES,
    weighted=st.booleans(),
)
def test_the_search_is_never_worse_than_rounding(
    bits: int, symmetric: bool, shape: tuple[int, int], size: int, seed: int, magnitude: float, weighted: bool,
) -> None:
    fmt = BlockFormat(bits, size, symmetric)
    weight = rows(shape, seed, magnitude)
    importance = uneven_importance(shape[1], seed) if weighted else None
    rounded, searched = (
        weighted_error(methods.find(name).quantize(weight, fmt, importance), weight, importance)
        for name in ("round_to_nearest", "grid_search")
    )
    # The search compares float32 sums of at most 128 terms: 128 · 2^-24 < 1e-5 of the sum. Squares of values below
    # 1e-19 vanish in float32, so errors that small do not count.
    assert searched <= rounded * (1 + 1e-5) + weight.size * 1e-38


@pytest.mark.parametrize(("fmt", "gain"), [
    (BlockFormat(4, 32), 0.07), (BlockFormat(4, 64), 0.07), (BlockFormat(4, 128), 0.07),
    (BlockFormat(4, 64, True), 0.10), (BlockFormat(8, 128, True), 0.01),
], ids=str)
def test_the_search_gains_what_was_measured(fmt: BlockFormat, gain: float) -> None:
    weight = rows((128, 1024), 7, -2)
    importance = np.exp(np.random.default_rng(8).normal(0, 1, 1024)).astype(np.float32)
    for weights, least in ((None, gain), (importance, gain + 0.02 if fmt.bits == 4 else gain)):
        rounded, searched = (
            weighted_error(methods.find(name).quantize(weight, fmt, weights), weight, weights)
            for name in ("round_to_nearest", "grid_search")
        )
        assert searched < rounded * (1 - least)


@pytest.mark.parametrize("name", methods.names())
@settings(deadline=None, max_examples=40)
@given(
    fmt=FORMATS, n=st.integers(2, 12), k=st.integers(1, 300), seed=st.integers(0, 2**31), weighted=st.booleans(),
    data=st.data(),
)
def test_bytes_do_not_depend_on_how_rows_are_sliced(
    name: str, fmt: BlockFormat, n: int, k: int, seed: int, weighted: bool, data: st.DataObject,
) -> None:
    weight = rows((n, k), seed, -2)
    importance = uneven_importance(k, seed) if weighted else None
    method = methods.find(name)
    whole = method.quantize(weight, fmt, importance)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    piece = method.quantize(weight[start:stop], fmt, importance)
    zero_points = None if whole.zero_points is None else whole.zero_points[start:stop]
    expected = QuantizedTensor(
        fmt, (stop - start, k), whole.codes_packed[start:stop], whole.scales[start:stop], zero_points,
    )
    assert same(piece, expected)


def test_the_search_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, fmt = rows((40, 192), 5, -2), BlockFormat(4, 64)
    importance = uneven_importance(192, 5)
    whole = grid_search.quantize(weight, fmt, importance)
    for elements in (1, 192, 192 * 7, 1 << 22):
        monkeypatch.setattr(grid_search, "CHUNK_ELEMENTS", elements)
        assert same(grid_search.quantize(weight, fmt, importance), whole)


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_underflow_and_overflow(name: str, bits: int, symmetric: bool) -> None:
    fmt, quantize = BlockFormat(bits, 32, symmetric), methods.find(name).quantize
    zeros = quantize(np.zeros((2, 32), np.float32), fmt, None)
    assert (zeros.scales == 1).all() and (dequantize(zeros) == 0).all()
    # below half of float16's smallest number nothing is left; the scale stays positive
    tiny = quantize(np.full((2, 32), 1e-9, np.float32), fmt, None)
    assert (tiny.scales > 0).all() and (dequantize(tiny) == 0).all()
    smallest = quantize(np.full((1, 32), np.finfo(np.float32).smallest_subnormal), fmt, None)
    assert (dequantize(smallest) == 0).all()
    with pytest.raises(ValueError, match="float16 reaches 65504"):
        quantize(np.full((1, 32), 3e38, np.float32) * np.where(np.arange(32) % 2, 1, -1).astype(np.float32), fmt, None)
    # the largest weight that every format here holds: 7 · 65504
    largest = np.array([[458528.0, *[0.0] * 31]], np.float32)
    assert dequantize(quantize(largest, fmt, None))[0, 0] == pytest.approx(458528, rel=2**-11 * 8)


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(name: str, bad: float) -> None:
    weight = np.ones((3, 40), np.float32)
    weight[1, 37] = bad
    with pytest.raises(ValueError, match=r"\[1, 37\]"):
        methods.find(name).quantize(weight, BlockFormat(4, 32), None)


@pytest.mark.parametrize("importance", [
    np.ones(31, np.float32), np.ones((1, 32), np.float32), np.full(32, -1, np.float32), np.full(32, np.nan, np.float32),
], ids=["short", "2-D", "negative", "NaN"])
def test_unusable_importance_is_refused(importance: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be 32 finite numbers"):
        grid_search.quantize(np.ones((1, 32), np.float32), BlockFormat(4, 32), importance)


def test_importance_of_zero_everywhere_means_none() -> None:
    weight = rows((4, 64), 3, -2)
    without = grid_search.quantize(weight, BlockFormat(4, 32), None)
    assert same(grid_search.quantize(weight, BlockFormat(4, 32), np.zeros(64, np.float32)), without)


def test_importance_decides_what_is_kept() -> None:
    """An outlier that counts for nothing is clipped, so that the columns beside it keep their values."""
    weight = np.tile(np.linspace(-0.02, 0.02, 32, dtype=np.float32), (8, 1))
    weight[:, 5] = 0.06
    importance = np.ones(32, np.float32)
    importance[5] = 1e-6
    fmt, others = BlockFormat(4, 32), np.arange(32) != 5
    with_importance, without = (
        np.square(dequantize(grid_search.quantize(weight, fmt, weights)) - weight)[:, others].sum()
        for weights in (importance, None)
    )
    assert with_importance < 0.5 * without

"""Slices of a weight, written through functions: the same bytes as in one piece, and errors that name the weight."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgephi.quantize import methods, streaming
from edgephi.quantize.formats import BlockFormat, FloatFormat, Format, ScreenedFormat, dequantize
from edgephi.quantize.report import ErrorSums, TensorReport
from edgephi.quantize.streaming import WeightJob, row_slices, store

FORMATS: tuple[Format, ...] = (
    BlockFormat(4, 32), BlockFormat(4, 32, True), BlockFormat(8, 64), FloatFormat("float16"), FloatFormat("float32"),
)


class Memory:
    """Byte buffers in place of files."""

    def __init__(self) -> None:
        self.parts: dict[str, bytearray] = {}
        self.largest_read = 0
        self._lock = threading.Lock()

    def job(self, weight: np.ndarray) -> WeightJob:
        def read(start: int, stop: int) -> np.ndarray:
            self.largest_read = max(self.largest_read, stop - start)
            return weight[start:stop].copy()

        def write(kind: str, offset: int, array: np.ndarray) -> None:
            data = np.ascontiguousarray(array).tobytes()
            with self._lock:
                buffer = self.parts.setdefault(kind, bytearray())
                buffer.extend(bytes(max(0, offset + len(data) - len(buffer))))
                buffer[offset : offset + len(data)] = data

        return WeightJob("layer.weight", weight.shape, weight.size * 2, read, write)


def matrix(rows: int = 50, columns: int = 100) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((rows, columns)) * 0.02).astype(np.float32)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("elements", [1, 700, 1 << 22])
@pytest.mark.parametrize("threads", [1, 3])
def test_slices_and_threads_do_not_change_the_bytes(
    fmt: Format, elements: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, memory, method = matrix(), Memory(), methods.find("grid_search")
    monkeypatch.setattr(streaming, "SLICE_ELEMENTS", elements)
    report = store(memory.job(weight), fmt, method, None, threads)
    if isinstance(fmt, BlockFormat):
        whole = method.quantize(weight, fmt, None)
        stored = dequantize(whole)
        expected = {"codes": whole.codes_packed.tobytes(), "scales": whole.scales.tobytes()}
        if whole.zero_points is not None:
            expected["zero_points"] = whole.zero_points.tobytes()
    else:
        assert isinstance(fmt, FloatFormat)
        stored = weight.astype(fmt.dtype).astype(np.float32)
        expected = {"values": weight.astype(fmt.dtype).tobytes()}
    assert memory.parts == expected
    assert memory.largest_read <= max(1, elements // 100)
    after = sum(map(len, expected.values()))
    assert report == TensorReport(
        "layer.weight", str(fmt), (50, 100), weight.nbytes // 2, after, report.relative_error,
    )
    # two float64 sums in another order: 1e-12 is far above their rounding
    error = np.linalg.norm((stored - weight).astype(np.float64)) / np.linalg.norm(weight.astype(np.float64))
    assert report.relative_error == pytest.approx(error, rel=1e-12, abs=0)


def test_importance_reaches_the_method() -> None:
    weight, memory, importance = matrix(), Memory(), np.linspace(0, 1, 100, dtype=np.float32) ** 4
    fmt, method = BlockFormat(4, 64), methods.find("grid_search")
    store(memory.job(weight), fmt, method, importance, 2)
    assert memory.parts["codes"] == method.quantize(weight, fmt, importance).codes_packed.tobytes()
    assert memory.parts["codes"] != method.quantize(weight, fmt, None).codes_packed.tobytes()


def test_vectors_and_convolutions_are_stored_as_floats() -> None:
    for shape in ((33,), (4, 3, 2, 2)):
        weight, memory = np.arange(np.prod(shape), dtype=np.float32).reshape(shape), Memory()
        report = store(memory.job(weight), FloatFormat("float32"), methods.find("grid_search"), None, 1)
        assert memory.parts == {"values": bytearray(weight.tobytes())}
        assert (report.shape, report.relative_error, report.bytes_after) == (shape, 0.0, weight.nbytes)


def test_slices_cover_every_row_once() -> None:
    assert row_slices((10,)) == [(0, 10)]
    assert row_slices((3, streaming.SLICE_ELEMENTS * 2)) == [(0, 1), (1, 2), (2, 3)]
    slices = row_slices((200_064, 3072))
    assert [start for start, _ in slices[1:]] == [stop for _, stop in slices[:-1]]
    assert (slices[0][0], slices[-1][1]) == (0, 200_064)
    assert max(stop - start for start, stop in slices) * 3072 <= streaming.SLICE_ELEMENTS


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_values_that_are_not_finite_name_weight_and_place(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SLICE_ELEMENTS", 500)
    weight = matrix()
    weight[31, 7] = np.nan
    with pytest.raises(ValueError, match=r"^layer\.weight holds nan at \[31, 7\] and 0 more"):
        store(Memory().job(weight), fmt, methods.find("grid_search"), None, 2)


def test_values_beyond_the_format_name_the_weight() -> None:
    weight = matrix()
    weight[40, 3] = 1e30
    with pytest.raises(ValueError, match=r"^layer\.weight, rows 0 to 49: a block needs the scale .* reaches 65504"):
        store(Memory().job(weight), BlockFormat(4, 32), methods.find("round_to_nearest"), None, 1)
    with pytest.raises(ValueError, match=r"^layer\.weight holds 1e\+30, float16 reaches 6\.55e\+04"):
        store(Memory().job(weight), FloatFormat("float16"), methods.find("round_to_nearest"), None, 1)


def test_reports_survive_a_journal() -> None:
    report = ErrorSums(1.0, 4.0).report("w", BlockFormat(4, 32), (6, 40), 480)
    assert report == TensorReport("w", "uint4-block32", (6, 40), 480, 6 * (2 * 16 + 2 * 2 + 1), 0.5)
    assert TensorReport.from_json(report.to_json()) == report


def test_a_weight_of_zeros_has_no_error() -> None:
    zeros = np.zeros((2, 32), np.float32)
    assert ErrorSums.between(zeros, zeros).report("w", FloatFormat("float32"), (2, 32), 0).relative_error == 0


def test_a_screened_head_is_stored_in_both_forms() -> None:
    weight, memory, method = matrix(), Memory(), methods.find("grid_search")
    screen, exact = BlockFormat(4, 64), BlockFormat(8, 64, symmetric=True)
    report = store(memory.job(weight), ScreenedFormat(screen, exact, 16), method, None, 2)
    coarse, fine = method.quantize(weight, screen, None), method.quantize(weight, exact, None)
    assert coarse.zero_points is not None
    assert memory.parts == {
        "codes": fine.codes_packed.tobytes(), "scales": fine.scales.tobytes(),
        "screen_codes": coarse.codes_packed.tobytes(), "screen_scales": coarse.scales.tobytes(),
        "screen_zero_points": coarse.zero_points.tobytes(),
    }
    assert report.bytes_after == sum(map(len, memory.parts.values()))
    assert report.relative_error < 0.01  # that of 8 bits

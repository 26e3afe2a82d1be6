"""`dequantize` against ONNX Runtime's own kernels: what they compute is what our numpy says a weight is.

4-bit products run at accuracy_level 0 (float32 arithmetic): a row with a single 1 picks out one column of the weight,
and 1 · w + 0 + ... + 0 is exact. 8-bit products have a usable kernel only at accuracy_level 4, which rounds activations
to int8 with the scale max|x| / 127 of each block: a row whose one value is 127 has the scale 1 and is held exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgephi.quantize import methods
from edgephi.quantize.formats import BlockFormat, QuantizedTensor, dequantize

SHAPES = ((8, 64), (7, 160), (5, 100), (3, 16), (1, 31), (17, 300))
FORMATS = tuple(
    BlockFormat(bits, size, symmetric)
    for bits in (4, 8) for size in (16, 32, 64, 128, 256) for symmetric in (False, True)
)


def random_weight(n: int, k: int, seed: int) -> np.ndarray:
    """Values of many magnitudes, a dead row, and a stretch of zeros."""
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((n, k)) * np.exp(rng.normal(0, 2, (n, 1)))).astype(np.float32)
    weight[n // 2] = 0
    weight[0, : k // 2] = 0
    return weight


def parts(tensor: QuantizedTensor) -> list[np.ndarray]:
    """Codes, float32 scales and, where there are any, zero points."""
    stored = [tensor.codes_packed, tensor.scales.astype(np.float32)]
    return stored if tensor.zero_points is None else [*stored, tensor.zero_points]


def run(node: ir.Node, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> np.ndarray:
    """The single output of a graph of one node whose inputs are named as in `inputs` and `constants`."""
    values: dict[str, ir.Value] = {str(value.name): value for value in node.inputs if value is not None}
    for name, array in inputs.items():
        values[name].dtype, values[name].shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    node.outputs[0].dtype = ir.DataType.FLOAT
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([values[name] for name in inputs], node.outputs, nodes=[node], opset_imports=opsets, name="g")
    for name, array in constants.items():
        values[name].const_value = ir.tensor(array, name=name)
        values[name].dtype, values[name].shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        graph.initializers.add(values[name])
    session = onnxruntime.InferenceSession(
        ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(), providers=["CPUExecutionProvider"],
    )
    output: np.ndarray = session.run(None, inputs)[0]
    return output


def node(op_type: str, names: list[str], attributes: dict[str, Any]) -> ir.Node:
    return ir.node(op_type, [ir.Value(name=name) for name in names], attributes, domain="com.microsoft")


def product(x: np.ndarray, tensor: QuantizedTensor, accuracy_level: int) -> np.ndarray:
    """x · weightᵀ as MatMulNBits computes it."""
    fmt, (n, k) = tensor.fmt, tensor.shape
    names = ["codes", "scales", "zero_points"]
    constants = dict(zip(names, parts(tensor), strict=False))
    attributes = {
        "N": n, "K": k, "bits": fmt.bits, "block_size": fmt.block_size, "accuracy_level": accuracy_level,
    }
    return run(node("MatMulNBits", ["x", *constants], attributes), {"x": x}, constants)


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.bits == 4], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_four_bit_products(fmt: BlockFormat, shape: tuple[int, int]) -> None:
    weight = random_weight(*shape, seed=1)
    tensor = methods.find("round_to_nearest").quantize(weight, fmt, None)
    identity = np.eye(shape[1], dtype=np.float32)
    assert np.array_equal(product(identity, tensor, 0).T, dequantize(tensor))
    # a single row takes another kernel
    assert np.array_equal(product(identity[:1], tensor, 0)[0], dequantize(tensor)[:, 0])


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_products(fmt: BlockFormat, shape: tuple[int, int]) -> None:
    weight = random_weight(*shape, seed=2)
    tensor = methods.find("grid_search").quantize(weight, fmt, None)
    expected = 127 * dequantize(tensor).astype(np.float64)
    for rows in (slice(None), slice(1, 2)):
        result = product(127 * np.eye(shape[1], dtype=np.float32)[rows], tensor, 4).T
        # The kernel adds scale · Σ c·x and −scale · zero point · Σ x, each rounded to float32 (2^-24): in all at most
        # 3 roundings of a number that is no larger than 127 · scale · largest code.
        bound = 127 * np.repeat(tensor.scales.astype(np.float64), fmt.block_size, axis=1)[:, : shape[1]][:, rows]
        assert (np.abs(result - expected[:, rows]) <= 3 * 2.0**-24 * bound * fmt.largest_code).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [16, 32, 128])
@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_look_ups_are_exact(bits: int, symmetric: bool, size: int, blocks: int) -> None:
    fmt = BlockFormat(bits, size, symmetric)
    weight = random_weight(9, blocks * size, seed=3)
    tensor = methods.find("grid_search").quantize(weight, fmt, None)
    table, *rest = parts(tensor)
    constants = dict(zip(["table", "scales", "zero_points"], [table.reshape(9, -1), *rest], strict=False))
    ids = np.array([[8, 0, 3], [4, 4, 1]], np.int64)
    attributes = {"bits": bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
    names = ["table", "ids", *list(constants)[1:]]
    result = run(node("GatherBlockQuantized", names, attributes), {"ids": ids}, constants)
    assert np.array_equal(result, dequantize(tensor)[ids])

"""Rewrites a float graph for the formats of a plan: MatMul → MatMulNBits, Gather → GatherBlockQuantized, fp16 + Cast.

Boundary: knows graphs, not data. It says which stored parts each initializer of the rewritten graph needs; the bundle
writer fills them. Scales are stored fp16 behind a Cast that ONNX Runtime folds when it loads the graph: files are 8 %
smaller at block 32, speed is the same. Branches of `If` nodes may read weights of the graph around them; their nodes
are rewritten where they are. What a screened head becomes is said in screening.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from . import screening
from .formats import SCREEN, BlockFormat, FloatFormat, Format, ScreenedFormat

MICROSOFT = "com.microsoft"
MATMUL = "FusedMatMul"
GATHER = "Gather"


@dataclass(frozen=True)
class Part:
    """What an initializer shows: one stored part of a weight with a dtype and a shape; several may show the same.

    `kind`: values, codes, scales or zero_points; those of a head's screen begin with "screen_".
    """

    weight: str
    kind: str
    dtype: ir.DataType
    shape: tuple[int, ...]


def apply(
    model: ir.Model, formats: Mapping[str, Format], accuracy_level: int,
    activations: ir.DataType = ir.DataType.FLOAT, fused: bool = True,
) -> dict[str, Part]:
    """Rewrite `model` in place; returns initializer name → part for every initializer that has no data of its own.

    `formats` covers every such initializer; more names do no harm, so one plan serves several graphs. Weights of a
    BlockFormat must be (outputs, inputs) matrices that only matrix products and look-ups read; ValueError otherwise.
    `activations` is the dtype that the graph computes in, FLOAT or FLOAT16. `fused`: whether FusedMatMul may stay.
    """
    parts: dict[str, Part] = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None:
            continue
        fmt = formats[name]
        if isinstance(fmt, FloatFormat):
            parts[name] = _floats(model.graph, value, fmt, activations, fused)
        else:
            parts |= _blocks(model.graph, value, fmt, accuracy_level, activations)
    return parts


def _floats(graph: ir.Graph, value: ir.Value, fmt: FloatFormat, activations: ir.DataType, fused: bool) -> Part:
    stored = ir.DataType.FLOAT if fmt.dtype == "float32" else ir.DataType.FLOAT16
    shown = value if stored == activations else _insert_cast(graph, value, activations)
    value.dtype = stored
    if not fused:
        _multiply_by_columns(shown)
    return Part(str(value.name), "values", stored, _shape(value))


def _multiply_by_columns(weight: ir.Value) -> None:
    """x · weightᵀ as a product with the transposed weight: ONNX Runtime folds that when it loads the graph."""
    for node, index in list(weight.uses()):
        if not _is_product(node, index):
            continue
        if node.graph is None:
            raise ValueError(f"node {node.name} belongs to no graph")
        name = f"{node.name}.columns"
        columns = ir.node("Transpose", [weight], {"perm": [1, 0]}, name=name, outputs=[ir.Value(name=name)])
        node.graph.insert_before(node, columns)
        _replace(node, ir.node(
            "MatMul", [node.inputs[0], columns.outputs[0]], name=node.name,
            outputs=[ir.Value(name=node.outputs[0].name)],
        ))


def _blocks(
    graph: ir.Graph, weight: ir.Value, fmt: BlockFormat | ScreenedFormat, accuracy_level: int, activations: ir.DataType
) -> dict[str, Part]:
    name = str(weight.name)
    n, k = _shape(weight)
    exact = _Stored(graph, name, (n, k), fmt.exact if isinstance(fmt, ScreenedFormat) else fmt, activations)
    parts = dict(exact.parts)
    for node, index in list(weight.uses()):
        multiplied = _is_product(node, index)
        if not multiplied and not _is_look_up(node, index):
            raise ValueError(
                f"weight {name} is read by {node.op_type} {node.name}; only {MATMUL} with transB and {GATHER} along "
                "axis 0 have a block-quantized form: plan a float format for it"
            )
        if not multiplied:
            _replace_look_up(node, exact)
        elif isinstance(fmt, ScreenedFormat):
            screen = _Stored(graph, name, (n, k), fmt.screen, activations, SCREEN)
            screening.refine(_replace_product(node, screen, accuracy_level), exact.looked_up, fmt)
            parts |= screen.parts
        else:
            _replace_product(node, exact, accuracy_level)
    del graph.initializers[name]
    return parts | exact.parts


@dataclass
class _Stored:
    """A weight in one form: the initializers that show its parts, declared as they are asked for."""

    graph: ir.Graph
    weight: str
    shape: tuple[int, int]
    fmt: BlockFormat
    activations: ir.DataType
    form: str = ""
    parts: dict[str, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scales = self._show("scales", "scales", ir.DataType.FLOAT16, self.fmt.scales_shape(*self.shape))
        if self.activations != ir.DataType.FLOAT16:
            scales = _insert_cast(self.graph, scales, self.activations)
        self._grids: list[ir.Value] = [scales]
        shape = self.fmt.zero_points_shape(*self.shape)
        if shape is not None:
            self._grids.append(self._show("zero_points", "zero_points", ir.DataType.UINT8, shape))

    def multiplied(self) -> list[ir.Value]:
        """Inputs of a product."""
        return [self._show("codes", "codes", ir.DataType.UINT8, self.fmt.weight_shape(*self.shape)), *self._grids]

    def looked_up(self, rows: ir.Value, name: str) -> ir.Node:
        """The node that reads `rows` of the weight as floats: int64 (...) → (..., k)."""
        n, k = self.shape
        table = self._show("table", "codes", ir.DataType.UINT8, (n, k * self.fmt.bits // 8))
        attributes = {
            "bits": self.fmt.bits, "block_size": self.fmt.block_size, "gather_axis": 0, "quantize_axis": 1,
        }
        output = ir.Value(name=name)
        return ir.node(
            "GatherBlockQuantized", [table, rows, *self._grids], attributes, domain=MICROSOFT, outputs=[output],
            name=name,
        )

    def _show(self, shown: str, kind: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        name, part = f"{self.weight}.{self.form}{shown}", Part(self.weight, f"{self.form}{kind}", dtype, shape)
        self.parts[name] = part
        if name not in self.graph.initializers:
            self.graph.initializers.add(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape)))
        return self.graph.initializers[name]


def _is_product(node: ir.Node, index: int) -> bool:
    """x · weightᵀ and nothing else: MatMulNBits has none of FusedMatMul's other attributes."""
    if node.op_type != MATMUL or index != 1 or node.attributes.get_int("transB", 0) != 1:
        return False
    transposed = any(node.attributes.get_int(name, 0) for name in ("transA", "transBatchA", "transBatchB"))
    return not transposed and node.attributes.get_float("alpha", 1.0) == 1


def _is_look_up(node: ir.Node, index: int) -> bool:
    return node.op_type == GATHER and index == 0 and node.attributes.get_int("axis", 0) == 0


def _replace_product(node: ir.Node, stored: _Stored, accuracy_level: int) -> ir.Node:
    (n, k), fmt = stored.shape, stored.fmt
    attributes = {"N": n, "K": k, "bits": fmt.bits, "block_size": fmt.block_size, "accuracy_level": accuracy_level}
    return _replace(node, ir.node(
        "MatMulNBits", [node.inputs[0], *stored.multiplied()], attributes, domain=MICROSOFT,
        outputs=[ir.Value(name=node.outputs[0].name)], name=node.name,
    ))


def _replace_look_up(node: ir.Node, stored: _Stored) -> None:
    rows = node.inputs[1]
    assert rows is not None
    looked_up = stored.looked_up(rows, str(node.name))
    looked_up.outputs[0].name = node.outputs[0].name
    _replace(node, looked_up)


def _replace(node: ir.Node, replacement: ir.Node) -> ir.Node:
    """Put another node in the place of `node`, in whichever graph or branch it lies."""
    if node.graph is None:
        raise ValueError(f"node {node.name} belongs to no graph")
    output = replacement.outputs[0]
    output.type, output.shape = node.outputs[0].type, node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [replacement], node.outputs, replacement.outputs)
    return replacement


def _insert_cast(graph: ir.Graph, value: ir.Value, to: ir.DataType) -> ir.Value:
    """Put a Cast behind an initializer; everything that read it reads the Cast."""
    name = f"{value.name}.{'float16' if to == ir.DataType.FLOAT16 else 'float32'}"
    cast = ir.node("Cast", [value], {"to": int(to)}, name=name)
    cast.outputs[0].name = name
    for node, index in list(value.uses()):
        if node is not cast:
            node.replace_input_with(index, cast.outputs[0])
    graph.insert_before(graph[0], cast)
    return cast.outputs[0]


def _shape(value: ir.Value) -> tuple[int, ...]:
    """The stored shape; the shape that an overridable initializer shows is symbolic."""
    shape: tuple[int, ...] = value.meta["stored_shape"]
    return shape

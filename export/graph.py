"""Builds one ONNX graph node by node; the only file that knows how onnx_ir graphs are put together.

Boundary: knows nodes, names and shapes, nothing of models. Weights are *declared* (name, shape, float32): a graph is
complete without their data, which the bundle writer places in the external data file later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
OPSET = 21
IR_VERSION = 10
STORED_SHAPE = "stored_shape"  # key of ir.Value.meta: an overridable initializer shows a symbolic shape instead

Attribute = int | float | str | Sequence[int] | ir.Graph
Dimension = int | str
Operand = ir.Value | int | Sequence[int]


class GraphBuilder:
    """Collects inputs, declared weights, nodes and outputs of one graph, then turns them into an `ir.Model`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inputs: list[ir.Value] = []
        self._overridable: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._numbers: dict[str, int] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dimension]) -> ir.Value:
        """A required input of the graph."""
        value = _value(name, dtype, shape)
        self._inputs.append(value)
        return value

    def weight(self, name: str, shape: Sequence[int]) -> ir.Value:
        """A float32 initializer without data yet; the same name again gives the same value: a tied weight."""
        known = self._initializers.get(name)
        if known is not None:
            if known.meta[STORED_SHAPE] != tuple(shape):
                raise ValueError(f"weight {name} is declared as {known.meta[STORED_SHAPE]} and again as {tuple(shape)}")
            return known
        value = _value(name, ir.DataType.FLOAT, shape)
        value.meta[STORED_SHAPE] = tuple(shape)
        self._initializers[name] = value
        return value

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """A small initializer whose data stays inside the graph file; its name must be new."""
        if name in self._initializers:
            raise ValueError(f"initializer {name} is declared twice")
        value = _value(name, ir.DataType.from_numpy(array.dtype), array.shape)
        value.const_value = ir.tensor(array, name=name)
        self._initializers[name] = value
        return value

    def overridable(self, value: ir.Value, shape: Sequence[Dimension]) -> ir.Value:
        """Make an initializer of this graph an input with a default; `shape` names what a caller may change."""
        value.shape = ir.Shape(shape)
        self._overridable.append(value)
        return value

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], name: str, *, domain: str = "", outputs: int = 1,
        attributes: dict[str, Attribute] | None = None,
    ) -> tuple[ir.Value, ...]:
        """Append a node; its outputs are named after it."""
        values = [ir.Value(name=name if index == 0 else f"{name}.{index}") for index in range(outputs)]
        self._nodes.append(ir.node(op_type, inputs, attributes or {}, domain=domain, outputs=values, name=name))
        return tuple(values)

    def numbered(self, stem: str) -> str:
        """`stem` and the next free number behind it: a name for a node that nobody refers to."""
        number = self._numbers[stem] = self._numbers.get(stem, -1) + 1
        return f"{stem}_{number}"

    def apply(self, op_type: str, inputs: Sequence[Operand], name: str, **attributes: Attribute) -> ir.Value:
        """A standard operator with one output; integers among `inputs` become int64 constants named after the node."""
        values = [
            operand if isinstance(operand, ir.Value) else self.constant(f"{name}.{index}", np.array(operand, np.int64))
            for index, operand in enumerate(inputs)
        ]
        (result,) = self.node(op_type, values, name, attributes=attributes)
        return result

    def choose(
        self, condition: ir.Value, name: str, then: Callable[[], ir.Value], otherwise: Callable[[], ir.Value]
    ) -> ir.Value:
        """An `If`: only the branch that the boolean scalar `condition` picks is computed.

        Each callable appends its nodes to this builder, which collects them for the branch, and returns the last
        node's output. Weights declared in a branch belong to the outer graph, where every weight is found.
        """
        branches = [self._branch(f"{name}.then", then), self._branch(f"{name}.else", otherwise)]
        attributes = [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])]
        chosen = ir.Value(name=name)
        self._nodes.append(ir.Node("", "If", [condition], attributes, outputs=[chosen], name=name))
        return chosen

    def scan(
        self, indices: ir.Value, name: str, body: Callable[[ir.Value], ir.Value], shape: Sequence[Dimension]
    ) -> ir.Value:
        """A `Scan` over int64 (n,), n > 0: `body` of each int64 scalar gives float `shape`; their stack is (n, *shape).

        `body` appends its nodes to this builder, as in `choose`. Only one step's intermediate values exist at a time.
        """
        index = _value(f"{name}.index", ir.DataType.INT64, ())

        def typed() -> ir.Value:
            result = body(index)
            result.dtype, result.shape = ir.DataType.FLOAT, ir.Shape(shape)
            return result

        step = self._branch(f"{name}.step", typed, (index,))
        (stack,) = self.node("Scan", (indices,), name, attributes={"body": step, "num_scan_inputs": 1})
        return stack

    def graft(self, model: ir.Model, after: ir.Node) -> None:
        """Move what was made since the last call into a finished model: nodes behind `after`, inputs, initializers."""
        graph = model.graph
        graph.insert_after(after, self._nodes)
        graph.inputs.extend(self._overridable)
        for value in self._initializers.values():
            if value.name not in graph.initializers:
                graph.initializers.add(value)
        self._nodes, self._overridable = [], []

    def _branch(self, name: str, append: Callable[[], ir.Value], inputs: Sequence[ir.Value] = ()) -> ir.Graph:
        outer, self._nodes = self._nodes, []
        result = append()
        inner, self._nodes = self._nodes, outer
        return ir.Graph(inputs=inputs, outputs=[result], nodes=inner, name=name)

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[Dimension]) -> None:
        """Make `value` an output of the graph under `name`."""
        value.name, value.dtype, value.shape = name, dtype, ir.Shape(shape)
        self._outputs.append(value)

    def model(self) -> ir.Model:
        """The finished graph. Overridable initializers come last among the inputs."""
        graph = ir.Graph(
            inputs=[*self._inputs, *self._overridable], outputs=self._outputs, nodes=self._nodes, name=self._name,
            opset_imports={"": OPSET, MICROSOFT: 1},
        )
        for value in self._initializers.values():
            graph.initializers.add(value)
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgephi")


def _value(name: str, dtype: ir.DataType, shape: Sequence[Dimension]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

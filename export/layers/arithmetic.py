"""Index arithmetic written as formulas: tensors of a graph with Python's operators.

Boundary: int64 and bool tensors that say where things are; never weights or activations. Nodes are numbered under the
scope that a formula belongs to. Shapes broadcast as in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..graph import GraphBuilder, Operand


class Term:
    """An int64 or bool tensor of a graph. `scope` starts the names of the nodes that formulas with it append."""

    def __init__(self, graph: GraphBuilder, value: ir.Value, scope: str) -> None:
        self.graph = graph
        self.value = value
        self.scope = scope

    def apply(self, op_type: str, *others: Term | Operand, axis: int | None = None) -> Term:
        """The one output of an operator on this tensor and `others`."""
        inputs = [self.value, *(other.value if isinstance(other, Term) else other for other in others)]
        return self._of(op_type, inputs, {} if axis is None else {"axis": axis})

    def __add__(self, other: Term | int) -> Term:
        return self.apply("Add", other)

    def __sub__(self, other: Term | int) -> Term:
        return self.apply("Sub", other)

    def __mul__(self, other: Term | int) -> Term:
        return self.apply("Mul", other)

    def __floordiv__(self, other: Term | int) -> Term:
        """Rounds towards zero, as integer Div of ONNX does; the divisor must not be 0."""
        return self.apply("Div", other)

    def __mod__(self, other: Term | int) -> Term:
        """Has the sign of the divisor, which must not be 0."""
        return self.apply("Mod", other)

    def __lt__(self, other: Term | int) -> Term:
        return self.apply("Less", other)

    def __le__(self, other: Term | int) -> Term:
        return self.apply("LessOrEqual", other)

    def __ge__(self, other: Term | int) -> Term:
        return self.apply("GreaterOrEqual", other)

    def __and__(self, other: Term) -> Term:
        return self.apply("And", other)

    def __or__(self, other: Term) -> Term:
        return self.apply("Or", other)

    def equals(self, other: Term | int) -> Term:
        """bool: where both are the same number."""
        return self.apply("Equal", other)

    def where(self, then: Term | int, otherwise: Term | int) -> Term:
        """`then` where this bool is true, `otherwise` elsewhere."""
        return self.apply("Where", then, otherwise)

    def at_least(self, bound: int) -> Term:
        """The larger of this and `bound`."""
        return self.apply("Max", bound)

    def take(self, index: int, axis: int) -> Term:
        """One slice along `axis`, which disappears."""
        return self.apply("Gather", index, axis=axis)

    def expand(self, *axes: int) -> Term:
        """With new axes of length 1 at these places."""
        return self.apply("Unsqueeze", axes)

    def reshape(self, *shape: int) -> Term:
        """The same elements in another shape; one length may be -1."""
        return self.apply("Reshape", shape)

    def every(self, step: int, axes: Sequence[int], length: int) -> Term:
        """Every `step`-th slice along `axes`, each `length` long."""
        count = len(axes)
        return self.apply("Slice", [0] * count, [length] * count, tuple(axes), [step] * count)

    def sum(self, axis: int) -> Term:
        """Sum along `axis`, which disappears."""
        return self._of("ReduceSum", [self.value, (axis,)], {"keepdims": 0})

    def largest(self) -> Term:
        """The largest element, a scalar."""
        return self._of("ReduceMax", [self.value], {"keepdims": 0})

    def sum_before(self) -> Term:
        """Of a vector: for each element the sum of those before it."""
        return self._of("CumSum", [self.value, 0], {"exclusive": 1})

    def range(self) -> Term:
        """0 … n - 1 for a scalar n."""
        return self._of("Range", [0, self.value, 1], {})

    def number(self) -> Term:
        """As int64: 1 for true and for whatever is not zero."""
        truth = self._of("Cast", [self.value], {"to": int(ir.DataType.BOOL)})
        return truth._of("Cast", [truth.value], {"to": int(ir.DataType.INT64)})

    def positions(self) -> Term:
        """Of a bool vector: int64 positions of its true elements."""
        return self.apply("NonZero").apply("Squeeze", (0,))

    def joined(self, *others: Term, axis: int) -> Term:
        """This and `others` behind one another along `axis`."""
        return self.apply("Concat", *others, axis=axis)

    def _of(self, op_type: str, inputs: Sequence[Operand], attributes: dict[str, int]) -> Term:
        name = self.graph.numbered(f"{self.scope}.{op_type.lower()}")
        return Term(self.graph, self.graph.apply(op_type, inputs, name, **attributes), self.scope)

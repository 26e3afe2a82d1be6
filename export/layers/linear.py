"""Matrix products and table look-ups over weights in the checkpoint's own layout, (outputs, inputs)."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ..graph import MICROSOFT, GraphBuilder

Project = Callable[[GraphBuilder, ir.Value, str, int, int], ir.Value]
"""What multiplies with a weight of the decoder: `linear`, or a product with adapters beside it."""


def linear(graph: GraphBuilder, x: ir.Value, weight: str, outputs: int, inputs: int) -> ir.Value:
    """x (..., inputs) · weightᵀ → (..., outputs). FusedMatMul keeps the checkpoint's row order, so rows can stream."""
    value = graph.weight(weight, (outputs, inputs))
    name = weight.removesuffix(".weight") + ".matmul"
    (product,) = graph.node("FusedMatMul", (x, value), name, domain=MICROSOFT, attributes={"transB": 1})
    return product


def embedding(graph: GraphBuilder, ids: ir.Value, weight: str, rows: int, width: int) -> ir.Value:
    """ids (batch, seq) → (batch, seq, width)."""
    value = graph.weight(weight, (rows, width))
    name = weight.removesuffix(".weight") + ".gather"
    (looked_up,) = graph.node("Gather", (value, ids), name, attributes={"axis": 0})
    return looked_up


def biased_linear(graph: GraphBuilder, x: ir.Value, prefix: str, outputs: int, inputs: int) -> ir.Value:
    """x (..., inputs) · weightᵀ + bias → (..., outputs), over `prefix`.weight and `prefix`.bias."""
    product = linear(graph, x, f"{prefix}.weight", outputs, inputs)
    (total,) = graph.node("Add", (product, graph.weight(f"{prefix}.bias", (outputs,))), f"{prefix}.biased")
    return total

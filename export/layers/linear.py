"""Matrix products and table look-ups over weights in the checkpoint's own layout, (outputs, inputs)."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import MICROSOFT, GraphBuilder


def linear(graph: GraphBuilder, x: ir.Value, weight: str, outputs: int, inputs: int) -> ir.Value:
    """x (batch, seq, inputs) · weightᵀ → (batch, seq, outputs). FusedMatMul keeps the checkpoint's row order, so rows can be streamed."""
    value = graph.weight(weight, (outputs, inputs))
    (product,) = graph.node("FusedMatMul", (x, value), weight.removesuffix(".weight") + ".matmul", domain=MICROSOFT, attributes={"transB": 1})
    return product


def embedding(graph: GraphBuilder, ids: ir.Value, weight: str, rows: int, width: int) -> ir.Value:
    """ids (batch, seq) → (batch, seq, width)."""
    value = graph.weight(weight, (rows, width))
    (looked_up,) = graph.node("Gather", (value, ids), weight.removesuffix(".weight") + ".gather", attributes={"axis": 0})
    return looked_up


def biased_linear(graph: GraphBuilder, x: ir.Value, prefix: str, outputs: int, inputs: int) -> ir.Value:
    """x (..., inputs) · weightᵀ + bias → (..., outputs), over `prefix`.weight and `prefix`.bias."""
    product = linear(graph, x, f"{prefix}.weight", outputs, inputs)
    (total,) = graph.node("Add", (product, graph.weight(f"{prefix}.bias", (outputs,))), f"{prefix}.biased")
    return total

"""The two-layer projector from an encoder's width to the decoder's: down(gelu(up(x))), exact gelu."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import GraphBuilder
from .linear import biased_linear


def projector(graph: GraphBuilder, x: ir.Value, prefix: str, inputs: int, outputs: int) -> ir.Value:
    """x (..., inputs) → (..., outputs), over `prefix`.up and `prefix`.down with their biases."""
    raised = biased_linear(graph, x, f"{prefix}.up", outputs, inputs)
    (activated,) = graph.node("Gelu", (raised,), f"{prefix}.gelu", attributes={"approximate": "none"})
    return biased_linear(graph, activated, f"{prefix}.down", outputs, outputs)

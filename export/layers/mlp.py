"""The gated feed-forward part: down(silu(gate(x)) · up(x)), gate and up stored as one matrix."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import MICROSOFT, GraphBuilder
from .linear import Project, linear


def gated_mlp(
    graph: GraphBuilder, x: ir.Value, prefix: str, hidden: int, intermediate: int, project: Project = linear
) -> ir.Value:
    """x (batch, seq, hidden) → (batch, seq, hidden). Rows of gate_up_proj are gate | up."""
    gate_up = project(graph, x, f"{prefix}.gate_up_proj.weight", 2 * intermediate, hidden)
    gate, up = graph.node("Split", (gate_up,), f"{prefix}.split", outputs=2, attributes={"axis": -1, "num_outputs": 2})
    # QuickGelu with alpha 1 is silu: x · sigmoid(1 · x)
    (activated,) = graph.node("QuickGelu", (gate,), f"{prefix}.silu", domain=MICROSOFT, attributes={"alpha": 1.0})
    (gated,) = graph.node("Mul", (activated, up), f"{prefix}.gated")
    return project(graph, gated, f"{prefix}.down_proj.weight", hidden, intermediate)

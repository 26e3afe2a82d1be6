"""RMSNorm, alone and fused with the residual addition before it, and LayerNorm."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import MICROSOFT, GraphBuilder


def rms_norm(graph: GraphBuilder, x: ir.Value, weight: str, width: int, epsilon: float) -> ir.Value:
    """x / rms(x) · weight over the last axis; x (batch, seq, width)."""
    value = graph.weight(weight, (width,))
    name = weight.removesuffix(".weight")
    return graph.apply("SimplifiedLayerNormalization", (x, value), name, axis=-1, epsilon=epsilon, stash_type=1)


def add_rms_norm(
    graph: GraphBuilder, x: ir.Value, residual: ir.Value, weight: str, width: int, epsilon: float
) -> tuple[ir.Value, ir.Value]:
    """sum = x + residual; returns (rms_norm(sum), sum), each (batch, seq, width)."""
    value = graph.weight(weight, (width,))
    normed, _, _, total = graph.node(
        "SkipSimplifiedLayerNormalization", (x, residual, value), weight.removesuffix(".weight"), domain=MICROSOFT,
        outputs=4, attributes={"epsilon": epsilon},
    )
    return normed, total


def layer_norm(graph: GraphBuilder, x: ir.Value, prefix: str, width: int, epsilon: float) -> ir.Value:
    """(x - mean(x)) / √(var(x) + ε) · weight + bias over the last axis, over `prefix`.weight and `prefix`.bias."""
    scale, shift = graph.weight(f"{prefix}.weight", (width,)), graph.weight(f"{prefix}.bias", (width,))
    return graph.apply("LayerNormalization", (x, scale, shift), prefix, axis=-1, epsilon=epsilon)

"""Attention in single steps, for compilers that know no fused one: scores, bias, softmax, mixture.

Boundary: projected rows in, mixed rows out, of one sequence whose length is fixed; the projections are the caller's.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder

HIDDEN = 10000.0  # what a masked score loses: nothing is left of it, and float16 still holds the number


def plain_attention(
    graph: GraphBuilder, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value, name: str, heads: int,
    scale: float,
) -> ir.Value:
    """query, key, value (1, rows, width) → (1, rows, width); `bias` is added to the scores (1, heads, rows, rows)."""

    def by_head(rows: ir.Value, label: str, order: tuple[int, ...]) -> ir.Value:
        split = graph.apply("Reshape", (rows, [0, 0, heads, -1]), f"{name}.{label}.split")
        return graph.apply("Transpose", (split,), f"{name}.{label}", perm=order)

    scaled = graph.apply("Mul", (query, graph.constant(f"{name}.scale", np.array(scale, np.float32))), f"{name}.scaled")
    queries, keys = by_head(scaled, "queries", (0, 2, 1, 3)), by_head(key, "keys", (0, 2, 3, 1))
    scores = graph.apply("Add", (graph.apply("MatMul", (queries, keys), f"{name}.products"), bias), f"{name}.scores")
    weights = graph.apply("Softmax", (scores,), f"{name}.weights", axis=-1)
    mixed = graph.apply("MatMul", (weights, by_head(value, "values", (0, 2, 1, 3))), f"{name}.mixed")
    rows = graph.apply("Transpose", (mixed,), f"{name}.rows", perm=(0, 2, 1, 3))
    return graph.apply("Reshape", (rows, [0, 0, -1]), name)


def mask_bias(graph: GraphBuilder, mask: ir.Value, name: str) -> ir.Value:
    """mask float (1, rows), 1 where a row may be looked at and 0 elsewhere → bias (1, 1, 1, rows)."""
    less = graph.apply("Sub", (mask, graph.constant(f"{name}.seen", np.array(1, np.float32))), f"{name}.hidden")
    far = graph.apply("Mul", (less, graph.constant(f"{name}.far", np.array(HIDDEN, np.float32))), f"{name}.far_below")
    return graph.apply("Unsqueeze", (far, [1, 2]), f"{name}.bias")

"""Attention bias by relative position: one learned value for each clipped distance and head, the same for all layers.

As in T5 (Raffel et al. 2020, arXiv 1910.10683) but without buckets: distance j - i from query i to key j, clipped to
[-d, d - 1], is row d + distance of the table.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder


def relative_bias(graph: GraphBuilder, prefix: str, length: ir.Value, distance: int, heads: int) -> ir.Value:
    """length int64 scalar → float (1, heads, length, length), over the table `prefix`.weight (2 · distance, heads)."""
    table = graph.weight(f"{prefix}.weight", (2 * distance, heads))
    # Heads first before the look-up: the small table is transposed once at load, not the large result at every run.
    (by_head,) = graph.node("Transpose", (table,), f"{prefix}.by_head", attributes={"perm": [1, 0]})
    zero, one, query_axis, batch_axis, low, high = (
        graph.constant(f"{prefix}.{name}", np.array(value, np.int64))
        for name, value in (
            ("zero", 0), ("one", 1), ("query_axis", [1]), ("batch_axis", [0]),
            ("low", -distance), ("high", distance - 1),
        )
    )
    (positions,) = graph.node("Range", (zero, length, one), f"{prefix}.positions")
    (queries,) = graph.node("Unsqueeze", (positions, query_axis), f"{prefix}.queries")
    (distances,) = graph.node("Sub", (positions, queries), f"{prefix}.distances")
    (clipped,) = graph.node("Clip", (distances, low, high), f"{prefix}.clipped")
    (rows,) = graph.node("Sub", (clipped, low), f"{prefix}.rows")
    (looked_up,) = graph.node("Gather", (by_head, rows), f"{prefix}.looked_up", attributes={"axis": 1})
    (bias,) = graph.node("Unsqueeze", (looked_up, batch_axis), f"{prefix}.bias_values")
    return bias

"""Attention bias by relative position: one learned value for each clipped distance and head, the same for all layers.

As in T5 (Raffel et al. 2020, arXiv 1910.10683) but without buckets: distance j - i from query i to key j, clipped to
[-d, d - 1], is row d + distance of the table.
"""

from __future__ import annotations

import onnx_ir as ir

from ..graph import GraphBuilder
from .arithmetic import Term


def relative_bias(graph: GraphBuilder, prefix: str, length: Term, distance: int, heads: int) -> ir.Value:
    """length int64 scalar → float (1, heads, length, length), over the table `prefix`.weight (2 · distance, heads)."""
    positions = length.range()
    distances = positions - positions.expand(1)
    rows = distances.apply("Clip", -distance, distance - 1) + distance
    # Heads first before the look-up: the small table is transposed once at load, not the large result at every run.
    table = graph.weight(f"{prefix}.weight", (2 * distance, heads))
    by_head = graph.apply("Transpose", (table,), f"{prefix}.by_head", perm=[1, 0])
    values = graph.apply("Gather", (by_head, rows.value), f"{prefix}.values", axis=1)
    return graph.apply("Unsqueeze", (values, [0]), f"{prefix}.bias")

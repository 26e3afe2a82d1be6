"""Grouped-query attention with rotary embedding over a key/value cache, one fused node per layer.

The node appends new keys and values in place when a caller binds the same buffer as past and present; otherwise it
returns longer copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import MICROSOFT, GraphBuilder
from .linear import Project, linear


@dataclass(frozen=True)
class AttentionShape:
    """Heads of one attention layer; `window` counts the visible positions, the own one included, None for all."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection: q | k | v."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class CacheInputs:
    """Values shared by all layers: valid length of each sequence minus one, total length, and the rotary tables."""

    lengths: ir.Value
    total: ir.Value
    cos: ir.Value
    sin: ir.Value


def cache_lengths(graph: GraphBuilder, attention_mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """attention_mask (batch, total) → int32 (batch,) of valid positions minus one, and int32 scalar total."""
    axis = graph.constant("attention_mask.axis", np.array([1], np.int64))
    one = graph.constant("attention_mask.one", np.array([1], np.int64))
    (valid,) = graph.node("ReduceSum", (attention_mask, axis), "attention_mask.valid", attributes={"keepdims": 0})
    (last,) = graph.node("Sub", (valid, one), "attention_mask.last")
    (lengths,) = graph.node("Cast", (last,), "attention_mask.lengths", attributes={"to": int(ir.DataType.INT32)})
    (shape,) = graph.node("Shape", (attention_mask,), "attention_mask.shape")
    index = graph.constant("attention_mask.total_index", np.array(1, np.int64))
    (length,) = graph.node("Gather", (shape, index), "attention_mask.length", attributes={"axis": 0})
    (total,) = graph.node("Cast", (length,), "attention_mask.total", attributes={"to": int(ir.DataType.INT32)})
    return lengths, total


def attention(
    graph: GraphBuilder, x: ir.Value, prefix: str, layer: int, shape: AttentionShape, cache: CacheInputs,
    dtype: ir.DataType, project: Project = linear,
) -> ir.Value:
    """x (batch, seq, hidden) → (batch, seq, hidden); adds past inputs and present outputs of `layer` to the graph."""
    past_shape = ("batch", shape.kv_heads, "past", shape.head_dim)
    past = [graph.input(f"past_key_values.{layer}.{kind}", dtype, past_shape) for kind in ("key", "value")]
    qkv = project(graph, x, f"{prefix}.qkv_proj.weight", shape.qkv_rows, shape.hidden)
    attended, key, value = graph.node(
        "GroupQueryAttention", (qkv, None, None, *past, cache.lengths, cache.total, cache.cos, cache.sin),
        f"{prefix}.attention", domain=MICROSOFT, outputs=3,
        attributes={
            "num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "do_rotary": 1, "rotary_interleaved": 0,
            "scale": shape.head_dim**-0.5, "local_window_size": -1 if shape.window is None else shape.window,
        },
    )
    for present, kind in ((key, "key"), (value, "value")):
        graph.output(present, f"present.{layer}.{kind}", dtype, ("batch", shape.kv_heads, "total", shape.head_dim))
    return project(graph, attended, f"{prefix}.o_proj.weight", shape.hidden, shape.heads * shape.head_dim)

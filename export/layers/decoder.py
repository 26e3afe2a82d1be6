"""The decoder stack shared by the Phi families: embeddings in, logits of the requested rows out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from .attention import AttentionShape, CacheInputs, attention, cache_lengths
from .linear import embedding, linear
from .mlp import gated_mlp
from .norm import add_rms_norm, rms_norm
from .rope import Rope, declare_tables

LAST_ROW = np.array([-1], np.int64)


@dataclass(frozen=True)
class DecoderShape:
    """Everything that shapes the text decoder; `head` names the weight of the LM head (the embedding's where they are tied)."""

    layers: int
    attention: AttentionShape
    intermediate: int
    vocabulary: int
    norm_epsilon: float
    rope: Rope
    embedding: str
    head: str


def text_graph(shape: DecoderShape, dtype: ir.DataType) -> ir.Model:
    """The graph `text`: input_ids, attention_mask and past in; logits (batch, rows, vocabulary) and present out.

    `logits_rows` (default: the last) names the positions of this step that reach the LM head, so prefill pays for one row, not for all.
    """
    graph = GraphBuilder("text")
    ids = graph.input("input_ids", ir.DataType.INT64, ("batch", "seq"))
    mask = graph.input("attention_mask", ir.DataType.INT64, ("batch", "total"))
    cos, sin = declare_tables(graph, shape.rope)
    rows = graph.overridable(graph.constant("logits_rows", LAST_ROW), ("rows",))
    cache = CacheInputs(*cache_lengths(graph, mask), cos, sin)
    width = shape.attention.hidden
    x = embedding(graph, ids, shape.embedding, shape.vocabulary, width)
    normed = rms_norm(graph, x, "model.layers.0.input_layernorm.weight", width, shape.norm_epsilon)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        attended = attention(graph, normed, f"{prefix}.self_attn", layer, shape.attention, cache, dtype)
        normed, x = add_rms_norm(graph, attended, x, f"{prefix}.post_attention_layernorm.weight", width, shape.norm_epsilon)
        gated = gated_mlp(graph, normed, f"{prefix}.mlp", width, shape.intermediate)
        following = f"model.layers.{layer + 1}.input_layernorm.weight" if layer + 1 < shape.layers else "model.norm.weight"
        normed, x = add_rms_norm(graph, gated, x, following, width, shape.norm_epsilon)
    (needed,) = graph.node("Gather", (normed, rows), "logits_rows.gather", attributes={"axis": 1})
    logits = linear(graph, needed, shape.head, shape.vocabulary, width)
    graph.output(logits, "logits", dtype, ("batch", "rows", shape.vocabulary))
    return graph.model()


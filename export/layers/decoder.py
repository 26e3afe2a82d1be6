"""The decoder stack shared by the Phi families: ids or embeddings in, logits of the requested rows out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from ..signatures import ATTENTION_MASK, INPUT_IDS, INPUTS_EMBEDS, LOGITS
from .attention import AttentionShape, CacheInputs, attention, cache_lengths
from .linear import Project, embedding, linear
from .lora import Adapter, adapted, always
from .mlp import gated_mlp
from .norm import add_rms_norm, rms_norm
from .rope import Rope, declare_tables

LAST_ROW = np.array([-1], np.int64)
FINAL_NORM = "model.norm.weight"


@dataclass(frozen=True)
class DecoderShape:
    """Everything that shapes the text decoder.

    `embedding` names the table that ids are looked up in, None where the graph takes `inputs_embeds` instead; `head`
    names the weight of the LM head (the embedding's where they are tied).
    """

    layers: int
    attention: AttentionShape
    intermediate: int
    vocabulary: int
    norm_epsilon: float
    rope: Rope
    embedding: str | None
    head: str


def text_graph(
    shape: DecoderShape, dtype: ir.DataType, adapters: Sequence[Adapter] = (), active: str | None = None, *,
    fixed: bool = False,
) -> ir.Model:
    """The graph `text`: ids or embeddings, attention_mask and past in; logits (batch, rows, vocabulary), present out.

    `logits_rows` (default: the last) names the positions of this step that reach the LM head, so prefill pays for one
    row, not for all. `adapters` run beside the linears of every layer, `active` is on by default; where it is `fixed`,
    it is on for good, and the others are not there.
    """
    graph = GraphBuilder("text")
    width, epsilon = shape.attention.hidden, shape.norm_epsilon
    x = _tokens(graph, shape, dtype)
    mask = graph.input(ATTENTION_MASK, ir.DataType.INT64, ("batch", "total"))
    cos, sin = declare_tables(graph, shape.rope)
    rows = graph.overridable(graph.constant("logits_rows", LAST_ROW), ("rows",))
    project: Project = linear
    if fixed and active is not None:
        project = always(next(adapter for adapter in adapters if adapter.name == active))
    elif adapters:
        project = adapted(graph, adapters, active)
    cache = CacheInputs(*cache_lengths(graph, mask), cos, sin)
    normed = rms_norm(graph, x, "model.layers.0.input_layernorm.weight", width, epsilon)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        attended = attention(graph, normed, f"{prefix}.self_attn", layer, shape.attention, cache, dtype, project)
        normed, x = add_rms_norm(graph, attended, x, f"{prefix}.post_attention_layernorm.weight", width, epsilon)
        gated = gated_mlp(graph, normed, f"{prefix}.mlp", width, shape.intermediate, project)
        last = layer + 1 == shape.layers
        following = FINAL_NORM if last else f"model.layers.{layer + 1}.input_layernorm.weight"
        normed, x = add_rms_norm(graph, gated, x, following, width, epsilon)
    (needed,) = graph.node("Gather", (normed, rows), "logits_rows.gather", attributes={"axis": 1})
    logits = linear(graph, needed, shape.head, shape.vocabulary, width)
    graph.output(logits, LOGITS, dtype, ("batch", "rows", shape.vocabulary))
    return graph.model()


def _tokens(graph: GraphBuilder, shape: DecoderShape, dtype: ir.DataType) -> ir.Value:
    """Declare what the decoder reads: (batch, seq, hidden)."""
    if shape.embedding is None:
        vectors = graph.input(INPUTS_EMBEDS, ir.DataType.FLOAT, ("batch", "seq", shape.attention.hidden))
        if dtype == ir.DataType.FLOAT:
            return vectors
        return graph.apply("Cast", (vectors,), "inputs_embeds.cast", to=int(dtype))
    ids = graph.input(INPUT_IDS, ir.DataType.INT64, ("batch", "seq"))
    return embedding(graph, ids, shape.embedding, shape.vocabulary, shape.attention.hidden)

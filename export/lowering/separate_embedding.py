"""The table of embeddings in a graph of its own, which a CPU looks ids up in, memory-mapped; the decoder gets vectors.

An NPU has no quantized look-up, and would copy a table that a token reads one row of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from ..graph import GraphBuilder
from ..layers.linear import embedding
from ..signatures import INPUT_IDS, INPUTS_EMBEDS

if TYPE_CHECKING:
    from . import Draft


def apply(draft: Draft) -> Draft:
    """`text` takes `inputs_embeds`; a graph `embedding` is added where the family draws none."""
    text, table = draft.graphs["text"], draft.decoder.embedding
    if table is None or "embedding" in draft.graphs:
        return draft
    hidden, dtype = draft.decoder.attention.hidden, text.graph.outputs[0].dtype or ir.DataType.FLOAT
    (look_up,) = [node for node, _ in text.graph.initializers[table].uses() if node.op_type == "Gather"]
    vectors = ir.Value(name=INPUTS_EMBEDS, type=ir.TensorType(dtype), shape=ir.Shape(("batch", "seq", hidden)))
    ir.convenience.replace_all_uses_with(look_up.outputs[0], vectors)
    text.graph.remove(look_up, safe=True)
    inputs = text.graph.inputs
    inputs[next(index for index, value in enumerate(inputs) if value.name == INPUT_IDS)] = vectors
    if not text.graph.initializers[table].uses():
        del text.graph.initializers[table]
    graphs: Mapping[str, ir.Model] = {**draft.graphs, "embedding": _embedding_graph(draft, table, dtype)}
    return replace(draft, graphs=graphs)


def _embedding_graph(draft: Draft, table: str, dtype: ir.DataType) -> ir.Model:
    graph, hidden = GraphBuilder("embedding"), draft.decoder.attention.hidden
    ids = graph.input(INPUT_IDS, ir.DataType.INT64, ("batch", "seq"))
    vectors = embedding(graph, ids, table, draft.decoder.vocabulary, hidden)
    graph.output(vectors, INPUTS_EMBEDS, dtype, ("batch", "seq", hidden))
    return graph.model()

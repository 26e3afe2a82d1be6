"""The graph `embedding`: token ids and the features of media in, the vectors that the decoder reads out."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph import GraphBuilder
from ..signatures import INPUTS_EMBEDS, embedding_inputs
from .arithmetic import Term
from .linear import embedding


@dataclass(frozen=True)
class EmbeddingShape:
    """A table of `vocabulary` rows of `hidden` values, and the ids whose vectors come from an encoder.

    `audio_token` is None for a model that takes no recordings.
    """

    table: str
    vocabulary: int
    hidden: int
    image_token: int
    audio_token: int | None


def embedding_graph(shape: EmbeddingShape) -> ir.Model:
    """The graph `embedding`: inputs_embeds float (batch, seq, hidden).

    The placeholders of images and of recordings take the rows of their features in the order of the ids. ONNX Runtime
    refuses a number of rows that is not the number of placeholders.
    """
    graph = GraphBuilder("embedding")
    inputs = embedding_inputs(graph, shape.hidden, audio=shape.audio_token is not None)
    x = embedding(graph, inputs.ids, shape.table, shape.vocabulary, shape.hidden)
    media = ((inputs.image_features, shape.image_token, "image"), (inputs.audio_features, shape.audio_token, "audio"))
    for features, token, name in media:
        if features is None or token is None:
            continue
        places = Term(graph, inputs.ids, f"{name}_places").equals(token).apply("NonZero")
        by_place = graph.apply("Transpose", (places.value,), f"{name}_places", perm=[1, 0])
        x = graph.apply("ScatterND", (x, by_place, features), f"{name}_merged")
    graph.output(x, INPUTS_EMBEDS, ir.DataType.FLOAT, ("batch", "seq", shape.hidden))
    return graph.model()

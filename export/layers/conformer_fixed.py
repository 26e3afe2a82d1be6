"""The graph `speech` in fixed shapes: one window of a recording at a time, for devices that take no others.

The same encoder as conformer.py and pieces.py draw for recordings of any length. A window is one piece of these, the
most that attention reaches over, so a longer recording is as many windows and a shorter one is padded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from ..signatures import AUDIO_FEATURES, AUDIO_FEATURES_WITH_IMAGES, rows_output, window_inputs
from .arithmetic import Term
from .conformer import Attended, ConformerShape, block, projected
from .plain_attention import mask_bias
from .relative_bias import relative_bias
from .subsampling import SubsamplingShape, normalize, subsample

PREFIX = "speech.window"


def window_graph(shape: ConformerShape) -> ir.Model:
    """The graph `speech`: `subsampling` frames that precede a window, then those of the window.

    Both projectors are computed: which one counts depends on the prompt, and a graph of fixed shapes has no branches.
    """
    graph = GraphBuilder("speech")
    inputs = window_inputs(graph, (shape.piece + 1) * shape.subsampling, shape.piece, shape.mel_bins)
    subsampling = SubsamplingShape(shape.mel_bins, shape.channels, shape.subsampling, shape.hidden)
    frames = normalize(graph, inputs.frames, shape.mel_bins)
    steps = subsample(graph, frames, inputs.own, subsampling)
    x = graph.apply("Slice", (steps, [1], [shape.piece + 1], [1]), f"{PREFIX}.steps")
    length = Term(graph, graph.constant(f"{PREFIX}.length", np.array(shape.piece)), PREFIX)
    distance = relative_bias(graph, "speech.relative_bias", length, shape.bias_distance, shape.heads)
    bias = graph.apply("Add", (distance, mask_bias(graph, inputs.seen, PREFIX)), f"{PREFIX}.attention_bias")
    attended = Attended(None, bias)
    for layer in range(shape.layers):
        x = block(graph, x, f"speech.layers.{layer}", shape, attended)
    for projector, output in (("speech", AUDIO_FEATURES), ("vision", AUDIO_FEATURES_WITH_IMAGES)):
        rows_output(graph, projected(graph, x, projector, shape), output, shape.piece, shape.output)
    return graph.model()

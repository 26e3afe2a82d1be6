"""The speech encoder of Phi-4-multimodal: subsampling, conformer blocks over pieces, and one of two projectors.

Boundary: mel frames in, vectors for the decoder out; knows neither samples nor names of checkpoints.
Block: Gulati et al. 2020 (Conformer, arXiv 2005.08100) with gated feed-forward parts, a causal convolution without
batch norm, and one bias by relative position for all layers. Pointwise convolutions are matrix products, so that they
can be quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from ...runtime.manifest import MODE_VISION_SPEECH
from ..graph import MICROSOFT, GraphBuilder
from ..signatures import speech_inputs, speech_output
from . import pieces
from .linear import biased_linear, linear
from .norm import layer_norm
from .plain_attention import HIDDEN, plain_attention
from .projector import projector
from .relative_bias import relative_bias
from .subsampling import SubsamplingShape, normalize

AUDIO_CONTEXT = "audio_context"


@dataclass(frozen=True)
class ConformerShape:
    """Everything that shapes the encoder.

    `subsampling` frames become one step; `channels` is the width of the subsampling convolutions; distances beyond
    `bias_distance` share their bias; attention reaches over `piece` steps at most; `output` is the decoder's width.
    """

    mel_bins: int
    subsampling: int
    channels: int
    hidden: int
    heads: int
    intermediate: int
    layers: int
    kernel: int
    bias_distance: int
    output: int
    piece: int = 500
    norm_epsilon: float = 1e-5


@dataclass(frozen=True)
class Attended:
    """What every attention layer shares: int32 (pieces, length) mask and float (1, heads, length, length) bias.

    Without a mask, which is then part of the bias, attention is drawn in single steps.
    """

    mask: ir.Value | None
    bias: ir.Value


def speech_graph(shape: ConformerShape) -> ir.Model:
    """The graph `speech`: mel frames of clips → audio_features float (tokens, output), clip after clip.

    The mask is true for a clip's own frames, which come first; a clip's size is ⌈own frames / subsampling⌉ tokens.
    Mode 3 takes the projector for requests that hold images too, every other value the one for speech alone. A clip
    gives the same features alone and in a padded batch.

    `audio_context` (overridable, int64 (1,), default 0) lets a long recording be encoded in several calls with the
    result of one. Each call starts on a multiple of piece · subsampling frames; all but the first put the
    `subsampling` frames that precede it in front and give their number here. The mask covers them, the size does not.
    """
    graph = GraphBuilder("speech")
    inputs = speech_inputs(graph, shape.mel_bins)
    context = graph.overridable(graph.constant(AUDIO_CONTEXT, np.array([0], np.int64)), (1,))
    frames = normalize(graph, inputs.frames, shape.mel_bins)
    cuts = pieces.plan_cuts(graph, inputs.mask, context, shape.subsampling, shape.piece)
    subsampling = SubsamplingShape(shape.mel_bins, shape.channels, shape.subsampling, shape.hidden)
    x = pieces.subsample_pieces(graph, frames, inputs.mask, cuts, subsampling)
    bias = relative_bias(graph, "speech.relative_bias", cuts.length, shape.bias_distance, shape.heads)
    attended = Attended(pieces.attended(graph, cuts), bias)
    for layer in range(shape.layers):
        x = block(graph, x, f"speech.layers.{layer}", shape, attended)
    rows = pieces.select(graph, x, cuts, inputs.sizes, shape.hidden)
    speech_output(graph, _projected(graph, rows, inputs.mode, shape), shape.output)
    return graph.model()


def block(graph: GraphBuilder, x: ir.Value, prefix: str, shape: ConformerShape, attended: Attended) -> ir.Value:
    """One block: x (pieces, length, hidden) → the same shape."""
    x = graph.apply("Add", (x, _half_feed_forward(graph, x, f"{prefix}.feed_forward_in", shape)), f"{prefix}.entered")
    x = graph.apply("Add", (x, _attention(graph, x, f"{prefix}.attention", shape, attended)), f"{prefix}.attended")
    x = graph.apply("Add", (x, _convolution(graph, x, f"{prefix}.conv", shape)), f"{prefix}.convolved")
    x = graph.apply("Add", (x, _half_feed_forward(graph, x, f"{prefix}.feed_forward_out", shape)), f"{prefix}.left")
    return layer_norm(graph, x, f"{prefix}.norm", shape.hidden, shape.norm_epsilon)


def _half_feed_forward(graph: GraphBuilder, x: ir.Value, prefix: str, shape: ConformerShape) -> ir.Value:
    """½ · down(up · swish(gate)) of the normed x. Rows of up_gate_proj are up | gate."""
    normed = layer_norm(graph, x, f"{prefix}.norm", shape.hidden, shape.norm_epsilon)
    raised = biased_linear(graph, normed, f"{prefix}.up_gate_proj", 2 * shape.intermediate, shape.hidden)
    gated = _gated(graph, raised, prefix)
    lowered = biased_linear(graph, gated, f"{prefix}.down_proj", shape.hidden, shape.intermediate)
    half = graph.constant(f"{prefix}.half", np.array(0.5, np.float32))
    return graph.apply("Mul", (lowered, half), f"{prefix}.halved")


def _attention(
    graph: GraphBuilder, x: ir.Value, prefix: str, shape: ConformerShape, attended: Attended
) -> ir.Value:
    """Full attention within each piece; the mask takes 10,000 off a score, which leaves nothing of it in float32."""
    normed = layer_norm(graph, x, f"{prefix}.norm", shape.hidden, shape.norm_epsilon)
    query, key, value = (
        biased_linear(graph, normed, f"{prefix}.{part}_proj", shape.hidden, shape.hidden) for part in ("q", "k", "v")
    )
    scale, name = (shape.hidden // shape.heads) ** -0.5, f"{prefix}.heads"
    if attended.mask is None:
        mixed = plain_attention(graph, query, key, value, attended.bias, name, shape.heads, scale)
    else:
        (mixed,) = graph.node(
            "MultiHeadAttention", (query, key, value, None, attended.mask, attended.bias), name, domain=MICROSOFT,
            attributes={"num_heads": shape.heads, "scale": scale, "mask_filter_value": -HIDDEN},
        )
    return biased_linear(graph, mixed, f"{prefix}.o_proj", shape.hidden, shape.hidden)


def _convolution(graph: GraphBuilder, x: ir.Value, prefix: str, shape: ConformerShape) -> ir.Value:
    """Gated pointwise, causal depthwise, pointwise, swish, pointwise over the steps of each piece."""
    width = shape.hidden
    normed = layer_norm(graph, x, f"{prefix}.norm", width, shape.norm_epsilon)
    product = linear(graph, normed, f"{prefix}.glu_proj.weight", 2 * width, width)
    shifted = graph.apply("Add", (product, _glu_bias(graph, prefix, width)), f"{prefix}.shifted")
    by_channel = graph.apply("Transpose", (_gated(graph, shifted, prefix),), f"{prefix}.by_channel", perm=[0, 2, 1])
    kernel = graph.weight(f"{prefix}.depthwise.weight", (width, 1, shape.kernel))
    bias = graph.weight(f"{prefix}.depthwise.bias", (width,))
    pads = [shape.kernel - 1, 0]
    causal = graph.apply("Conv", (by_channel, kernel, bias), f"{prefix}.causal", group=width, pads=pads)
    by_step = graph.apply("Transpose", (causal,), f"{prefix}.by_step", perm=[0, 2, 1])
    mixed = biased_linear(graph, by_step, f"{prefix}.pointwise", width, width)
    return biased_linear(graph, _swish(graph, mixed, f"{prefix}.swish"), f"{prefix}.out_proj", width, width)


def _glu_bias(graph: GraphBuilder, prefix: str, width: int) -> ir.Value:
    """The projection's bias and the gate's own two, as one (2 · hidden,) vector that is summed when the graph loads."""
    shifts = [graph.weight(f"{prefix}.glu_shift.{part}", (1, width, 1)) for part in ("value", "gate")]
    joined = graph.apply("Concat", shifts, f"{prefix}.glu_shift", axis=1)
    flat = graph.apply("Reshape", (joined, [-1]), f"{prefix}.glu_shift.flat")
    return graph.apply("Add", (flat, graph.weight(f"{prefix}.glu_proj.bias", (2 * width,))), f"{prefix}.glu_bias")


def _gated(graph: GraphBuilder, x: ir.Value, prefix: str) -> ir.Value:
    """(..., value | gate) → value · swish(gate)."""
    value, gate = graph.node("Split", (x,), f"{prefix}.split", outputs=2, attributes={"axis": -1, "num_outputs": 2})
    return graph.apply("Mul", (value, _swish(graph, gate, f"{prefix}.gate")), f"{prefix}.gated")


def _swish(graph: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    (activated,) = graph.node("QuickGelu", (x,), name, domain=MICROSOFT, attributes={"alpha": 1.0})
    return activated


def _projected(graph: GraphBuilder, rows: ir.Value, mode: ir.Value, shape: ConformerShape) -> ir.Value:
    """rows (tokens, hidden) → (tokens, output) through the projector that `mode` names; the other is not computed."""
    with_images = graph.apply("Equal", (mode, [MODE_VISION_SPEECH]), "speech.projector.with_images")
    vision, speech = (partial(projected, graph, rows, name, shape) for name in ("vision", "speech"))
    return graph.choose(with_images, "speech.projector", vision, speech)


def projected(graph: GraphBuilder, rows: ir.Value, name: str, shape: ConformerShape) -> ir.Value:
    """rows (..., hidden) → (..., output) through the projector "vision" or "speech"."""
    return projector(graph, rows, f"speech.projector.{name}", shape.hidden, shape.output)

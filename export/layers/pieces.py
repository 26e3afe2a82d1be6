"""Recordings as a batch of pieces: an encoder that was trained on at most `piece` steps sees no more at once.

A clip of at most one piece stays as it is. A longer one is cut from its start; its last piece is filled up with zero
steps, which its attention sees, as in the published model and in transformers. Clips of one batch do not see the
padding between them: each gives what it gives alone. Pieces are subsampled one after another, because convolutions
over a piece of 40 seconds take a gigabyte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from .arithmetic import Term
from .subsampling import SubsamplingShape, subsample

PREFIX = "speech.pieces"
TIME = 1  # axis of frames and steps
END = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Cuts:
    """Where clips are cut: int64 scalars that hold for the longest clip, and `limits` (audios,).

    Its `steps` are filled up to `padded`, `count` pieces of `length`. `limits` counts for each clip the steps that
    attention may look at. `front` and `back` frames are added so that there is a whole number of pieces and one step
    before them.
    """

    steps: Term
    padded: Term
    count: Term
    length: Term
    limits: Term
    front: Term
    back: Term


def plan_cuts(graph: GraphBuilder, mask: ir.Value, context: ir.Value, factor: int, piece: int) -> Cuts:
    """mask bool (audios, frames), true for a clip's own frames; context int64 (1,), leading frames of a piece before.

    Clips with context go on from earlier pieces, so that even a short one is filled up.
    """
    before = Term(graph, context, PREFIX).take(0, axis=0)
    continued = before >= 1

    def filled(steps: Term) -> Term:
        return ((steps >= piece + 1) | continued).where((steps + (piece - 1)) // piece * piece, steps)

    frames = Term(graph, graph.apply("Shape", (mask,), f"{PREFIX}.shape"), PREFIX).take(TIME, axis=0) - before
    lengths = Term(graph, mask, PREFIX).number().sum(TIME) - before
    steps = ((frames + (factor - 1)) // factor).at_least(1)
    padded = filled(steps)
    length = padded.apply("Min", piece)
    return Cuts(
        steps=steps, padded=padded, count=padded // length, length=length,
        limits=filled((lengths + (factor - 1)) // factor), front=before * -1 + factor, back=padded * factor - frames,
    )


def subsample_pieces(
    graph: GraphBuilder, frames: ir.Value, mask: ir.Value, cuts: Cuts, shape: SubsamplingShape
) -> ir.Value:
    """frames float (audios, frames, mel_bins), mask bool (audios, frames) → float (pieces, length, hidden).

    Pieces come clip by clip. The convolutions of a step reach back over less than `factor` frames. So each piece is
    subsampled together with the `factor` frames before it and then loses their step; before the first piece these are
    the context or nobody's.
    """
    valid = graph.apply("Cast", (mask,), f"{PREFIX}.mask", to=int(ir.DataType.FLOAT))
    pads = cuts.front.expand(0).joined(cuts.back.expand(0), axis=0).value
    axis = graph.constant(f"{PREFIX}.padded_axis", np.array([TIME], np.int64))
    padded = [
        graph.node("Pad", (values, pads, None, axis), f"{PREFIX}.{name}")[0]
        for name, values in (("padded_frames", frames), ("padded_mask", valid))
    ]
    stride = cuts.length * shape.factor

    def piece(index: ir.Value) -> ir.Value:
        start = Term(graph, index, f"{PREFIX}.window") * stride
        bounds = start.expand(0).value, (start + stride + shape.factor).expand(0).value
        window = [
            graph.apply("Slice", (values, *bounds, [TIME]), f"{PREFIX}.window_{name}")
            for name, values in zip(("frames", "mask"), padded, strict=True)
        ]
        vectors = subsample(graph, window[0], window[1], shape)
        return graph.apply("Slice", (vectors, [1], [END], [TIME]), f"{PREFIX}.window_vectors")

    indices = cuts.count.range().value
    by_piece = graph.scan(indices, f"{PREFIX}.windows", piece, ("audios", "length", shape.hidden))
    by_clip = graph.apply("Transpose", (by_piece,), f"{PREFIX}.by_clip", perm=[1, 0, 2, 3])
    width = Term(graph, graph.constant(f"{PREFIX}.width", np.array([shape.hidden], np.int64)), PREFIX)
    return graph.apply("Reshape", (by_clip, _rows_of(cuts).joined(width, axis=0).value), f"{PREFIX}.vectors")


def attended(graph: GraphBuilder, cuts: Cuts) -> ir.Value:
    """int32 (pieces, length): 1 where attention may look."""
    seen = cuts.padded.range() < cuts.limits.expand(1)
    by_piece = graph.apply("Reshape", (seen.value, _rows_of(cuts).value), f"{PREFIX}.seen")
    return graph.apply("Cast", (by_piece,), f"{PREFIX}.attended", to=int(ir.DataType.INT32))


def select(graph: GraphBuilder, x: ir.Value, cuts: Cuts, sizes: ir.Value, hidden: int) -> ir.Value:
    """x float (pieces, length, hidden) → float (rows, hidden): the first `sizes`[i] steps of each clip i.

    `sizes` int64 (audios,); one above the steps of the longest clip counts as these.
    """
    bounded = Term(graph, sizes, PREFIX).apply("Min", cuts.steps)
    wanted = (cuts.padded.range() < bounded.expand(1)).reshape(-1)
    flat = graph.apply("Reshape", (x, [-1, hidden]), f"{PREFIX}.flat")
    return graph.apply("Compress", (flat, wanted.value), f"{PREFIX}.rows", axis=0)


def _rows_of(cuts: Cuts) -> Term:
    """int64 (2,): the shape (pieces, length)."""
    length = cuts.length.expand(0)
    return (length * 0 - 1).joined(length, axis=0)

"""Long sequences as a batch of pieces: an encoder that was trained on at most `piece` steps sees no more at once.

A sequence of at most one piece stays as it is. A longer one is cut from its start; its last piece is filled up with
zero steps, which its attention sees, as in the published model and in transformers. Sequences of one batch do not see
the padding between them: each gives what it gives alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from .subsampling import Subsampled

PREFIX = "speech.pieces"


@dataclass(frozen=True)
class Pieces:
    """Pieces of all sequences, in order, and what puts their results back.

    `x` float (pieces, length, hidden); `attended` int32 (pieces, length), 1 where attention may look; `length` int64
    scalar; `positions` int64 (padded,) of the longest sequence after it was filled up; `steps` int64 (1,) before.
    """

    x: ir.Value
    attended: ir.Value
    length: ir.Value
    positions: ir.Value
    steps: ir.Value


def drop_context(graph: GraphBuilder, subsampled: Subsampled, context: ir.Value, factor: int) -> Subsampled:
    """Without the leading steps that stand for `context` int64 (1,) frames, a multiple of `factor`."""
    divisor, end, axis = (
        _integers(graph, f"context_{name}", value)
        for name, value in (("divisor", factor), ("end", np.iinfo(np.int64).max), ("axis", 1))
    )
    (start,) = graph.node("Div", (context, divisor), f"{PREFIX}.context_steps")
    (vectors,) = graph.node("Slice", (subsampled.vectors, start, end, axis), f"{PREFIX}.vectors")
    (valid,) = graph.node("Slice", (subsampled.valid, start, end, axis), f"{PREFIX}.valid")
    return Subsampled(vectors, valid)


def cut(graph: GraphBuilder, sequences: Subsampled, context: ir.Value, piece: int, hidden: int) -> Pieces:
    """Cut vectors (sequences, steps, hidden) into pieces of `piece` steps, or leave them whole where none is longer.

    `context` int64 (1,) above 0 says that the sequences go on from earlier pieces: then a short one is filled up too.
    """
    zero, one, whole = (_integers(graph, name, value) for name, value in (("zero", 0), ("one", 1), ("whole", piece)))
    (continued,) = graph.node("Greater", (context, zero), f"{PREFIX}.continued")
    (steps,) = graph.node("Shape", (sequences.valid,), f"{PREFIX}.steps", attributes={"start": 1, "end": 2})
    padded = _filled_up(graph, steps, continued, whole, piece, f"{PREFIX}.padded")
    (length,) = graph.node("Min", (padded, whole), f"{PREFIX}.length")

    (missing,) = graph.node("Sub", (padded, steps), f"{PREFIX}.missing")
    (pads,) = graph.node("Concat", (zero, missing), f"{PREFIX}.pads", attributes={"axis": 0})
    (filled,) = graph.node("Pad", (sequences.vectors, pads, None, one), f"{PREFIX}.filled")
    rest, width = _integers(graph, "rest", -1), _integers(graph, "width", hidden)
    (folded_shape,) = graph.node("Concat", (rest, length, width), f"{PREFIX}.folded_shape", attributes={"axis": 0})
    (x,) = graph.node("Reshape", (filled, folded_shape), f"{PREFIX}.folded")

    (lengths,) = graph.node("ReduceSum", (sequences.valid, one), f"{PREFIX}.lengths", attributes={"keepdims": 1})
    (counts,) = graph.node("Cast", (lengths,), f"{PREFIX}.counts", attributes={"to": int(ir.DataType.INT64)})
    limits = _filled_up(graph, counts, continued, whole, piece, f"{PREFIX}.limits")
    (positions,) = graph.node("Range", _scalars(graph, zero, padded, one), f"{PREFIX}.positions")
    (seen,) = graph.node("Less", (positions, limits), f"{PREFIX}.seen")
    (attended,) = graph.node("Cast", (seen,), f"{PREFIX}.attended", attributes={"to": int(ir.DataType.INT32)})
    (mask_shape,) = graph.node("Concat", (rest, length), f"{PREFIX}.mask_shape", attributes={"axis": 0})
    (mask,) = graph.node("Reshape", (attended, mask_shape), f"{PREFIX}.mask")
    (scalar_length,) = _scalars(graph, length)
    return Pieces(x, mask, scalar_length, positions, steps)


def select(graph: GraphBuilder, x: ir.Value, pieces: Pieces, sizes: ir.Value, hidden: int) -> ir.Value:
    """x float (pieces, length, hidden) → float (rows, hidden): the first `sizes`[i] steps of each sequence i.

    `sizes` int64 (sequences,). A size above the steps of the longest sequence counts as these.
    """
    flat_shape = graph.constant(f"{PREFIX}.flat_shape", np.array([-1, hidden], np.int64))
    (flat,) = graph.node("Reshape", (x, flat_shape), f"{PREFIX}.flat")
    (bounded,) = graph.node("Min", (sizes, pieces.steps), f"{PREFIX}.bounded_sizes")
    (column,) = graph.node("Unsqueeze", (bounded, _integers(graph, "size_axis", 1)), f"{PREFIX}.size_column")
    (wanted,) = graph.node("Less", (pieces.positions, column), f"{PREFIX}.wanted")
    (condition,) = graph.node("Reshape", (wanted, _integers(graph, "all", -1)), f"{PREFIX}.wanted_rows")
    (rows,) = graph.node("Compress", (flat, condition), f"{PREFIX}.rows", attributes={"axis": 0})
    return rows


def _filled_up(
    graph: GraphBuilder, steps: ir.Value, continued: ir.Value, whole: ir.Value, piece: int, name: str
) -> ir.Value:
    """`steps` rounded up to whole pieces where they are more than one piece or go on from an earlier one."""
    below = graph.constant(f"{name}.below", np.array([piece - 1], np.int64))
    (raised,) = graph.node("Add", (steps, below), f"{name}.raised")
    (count,) = graph.node("Div", (raised, whole), f"{name}.count")
    (rounded,) = graph.node("Mul", (count, whole), f"{name}.rounded")
    (longer,) = graph.node("Greater", (steps, whole), f"{name}.longer")
    (filled,) = graph.node("Or", (longer, continued), f"{name}.is_filled")
    (chosen,) = graph.node("Where", (filled, rounded, steps), name)
    return chosen


def _scalars(graph: GraphBuilder, *values: ir.Value) -> tuple[ir.Value, ...]:
    """int64 (1,) values as scalars."""
    return tuple(graph.node("Squeeze", (value,), f"{value.name}.scalar")[0] for value in values)


def _integers(graph: GraphBuilder, name: str, *values: int) -> ir.Value:
    return graph.constant(f"{PREFIX}.{name}", np.array(values, np.int64))

"""The SigLIP-2 image encoder for pictures of any aspect ratio, and the graph `vision` made of it: one token a patch.

Structure: Tschannen et al. 2025 (SigLIP 2, arXiv 2502.14786), NaFlex: a pre-norm vision transformer over the patches of
one picture, whose learned square of positions is resized to the picture's grid. A picture comes with exactly its
patches, so nothing is masked and nothing is padding; but for devices that take fixed shapes alone, which get as many
patches as there may be, and whose attention does not see the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from ..signatures import IMAGE_FEATURES, NaflexInputs, naflex_inputs, patch_inputs, rows_output, vision_output
from .plain_attention import mask_bias
from .projector import projector
from .siglip_block import BlockShape, block

PREFIX = "vision"
CHANNELS = 3


@dataclass(frozen=True)
class NaflexShape:
    """`layers` counts the blocks that are computed, `patch` is pixels a side, `grid` learned positions a side."""

    block: BlockShape
    layers: int
    patch: int
    grid: int

    @property
    def patch_values(self) -> int:
        """Numbers in one patch, in the order row, column, channel."""
        return self.patch * self.patch * CHANNELS


def naflex_vision_graph(shape: NaflexShape, hidden: int) -> ir.Model:
    """The graph `vision` for a decoder of width `hidden`: one picture in, a vector for each of its patches out."""
    graph = GraphBuilder("vision")
    inputs = naflex_inputs(graph, shape.patch_values)
    rows = encode(graph, inputs, shape)
    vision_output(graph, projector(graph, rows, f"{PREFIX}.projector", shape.block.hidden, hidden), hidden)
    return graph.model()


def fixed_naflex_graph(shape: NaflexShape, hidden: int, patches: int) -> ir.Model:
    """The graph `vision` for a picture padded to `patches` patches; the rows of the padding mean nothing.

    How positions are resized depends on the picture's grid and is computed by whoever runs the graph.
    """
    graph = GraphBuilder("vision")
    inputs = patch_inputs(graph, patches, shape.patch_values, shape.grid**2)
    positions = graph.apply("MatMul", (inputs.positions, _table(graph, shape)), f"{PREFIX}.positions")
    rows = _encoded(graph, inputs.pixels, positions, shape, mask_bias(graph, inputs.mask, PREFIX))
    projected = projector(graph, rows, f"{PREFIX}.projector", shape.block.hidden, hidden)
    rows_output(graph, projected, IMAGE_FEATURES, patches, hidden)
    return graph.model()


def encode(graph: GraphBuilder, inputs: NaflexInputs, shape: NaflexShape) -> ir.Value:
    """The last computed block over the patches of one picture: float (patches, hidden)."""
    x = _encoded(graph, inputs.pixels, _positions(graph, inputs.grid, shape), shape, None)
    return graph.apply("Squeeze", (x, [0]), f"{PREFIX}.features")


def _encoded(
    graph: GraphBuilder, pixels: ir.Value, positions: ir.Value, shape: NaflexShape, bias: ir.Value | None
) -> ir.Value:
    """pixels (1, patches, values), positions (patches, hidden), `bias` of attention → (1, patches, hidden)."""
    width = shape.block.hidden
    patches = graph.apply("Squeeze", (pixels, [0]), f"{PREFIX}.patches")
    kernel = graph.weight(f"{PREFIX}.patch_embedding.weight", (width, shape.patch_values))
    shift = graph.weight(f"{PREFIX}.patch_embedding.bias", (width,))
    # Gemm is not taken for a product to be quantized: what pixels lose here, no later layer gives back
    embedded = graph.apply("Gemm", (patches, kernel, shift), f"{PREFIX}.patch_embedding", transB=1)
    placed = graph.apply("Add", (embedded, positions), f"{PREFIX}.embedded")
    x = graph.apply("Unsqueeze", (placed, [0]), f"{PREFIX}.sequence")
    for layer in range(shape.layers):
        x = block(graph, x, f"{PREFIX}.layers.{layer}", shape.block, bias=bias)
    return x


def _positions(graph: GraphBuilder, sizes: ir.Value, shape: NaflexShape) -> ir.Value:
    """The table resized to the picture's grid, `sizes` int64 (1, 2): float (rows · columns, hidden).

    Resizing is linear in each direction, so it is two products with small matrices. Resize of ONNX Runtime is not used:
    with antialiasing it is off by 1e-5 where both sides grow and wrong where one grows and the other shrinks.
    """
    side, width, name = shape.grid, shape.block.hidden, f"{PREFIX}.positions"
    down, across = (_resampling(graph, sizes, axis, side) for axis in range(2))
    lines = graph.apply("Reshape", (_table(graph, shape), [side, side * width]), f"{name}.lines")
    resized = graph.apply("MatMul", (down, lines), f"{name}.down")
    columns = graph.apply("Reshape", (resized, [-1, side, width]), f"{name}.columns")
    both = graph.apply("MatMul", (across, columns), f"{name}.across")
    return graph.apply("Reshape", (both, [-1, width]), name)


def _table(graph: GraphBuilder, shape: NaflexShape) -> ir.Value:
    return graph.weight(f"{PREFIX}.position_embedding.weight", (shape.grid**2, shape.block.hidden))


def _resampling(graph: GraphBuilder, sizes: ir.Value, axis: int, side: int) -> ir.Value:
    """float (n, side): how much each of n places of a picture takes of each of `side` places of the table.

    A triangle around the place's centre, one table place wide or, where the picture has fewer, as wide as its own
    places, of sum 1: the bilinear filter with antialiasing and half-pixel centres, in float32 as it was trained.
    """
    name = f"{PREFIX}.resampling.{axis}"

    def number(label: str, value: float | np.ndarray) -> ir.Value:
        return graph.constant(f"{name}.{label}", np.asarray(value, np.float32))

    count = graph.apply("Squeeze", (graph.apply("Gather", (sizes, axis), f"{name}.size", axis=1), [0]), f"{name}.count")
    floats = {"to": int(ir.DataType.FLOAT)}
    length = graph.apply("Cast", (count,), f"{name}.length", **floats)
    scale = graph.apply("Div", (number("side", side), length), f"{name}.scale")
    reach = graph.apply("Max", (scale, number("least", 1.0)), f"{name}.reach")
    index = graph.apply("Cast", (graph.apply("Range", (0, count, 1), f"{name}.index"),), f"{name}.place", **floats)
    middle = graph.apply("Add", (index, number("half", 0.5)), f"{name}.middle")
    centre = graph.apply(
        "Sub", (graph.apply("Mul", (middle, scale), f"{name}.scaled"), number("shift", 0.5)), f"{name}.centre"
    )
    column = graph.apply("Unsqueeze", (centre, [1]), f"{name}.column")
    away = graph.apply("Sub", (number("source", np.arange(side)), column), f"{name}.away")
    distance = graph.apply("Div", (graph.apply("Abs", (away,), f"{name}.distance"), reach), f"{name}.relative")
    slope = graph.apply("Sub", (number("peak", 1.0), distance), f"{name}.slope")
    triangle = graph.apply("Relu", (slope,), f"{name}.triangle")
    total = graph.apply("ReduceSum", (triangle, [1]), f"{name}.total", keepdims=1)
    return graph.apply("Div", (triangle, total), name)

"""The SigLIP image encoder: one square crop in, one vector for each pooled cell of its patches out.

Structure: Zhai et al. 2023 (SigLIP, arXiv 2303.15343), a pre-norm vision transformer with learned positions. Crops
whose lower or right part is padding take the positions of NaViT (Dehghani et al. 2023, arXiv 2307.06304): the valid
part spans the whole table. Padding is never looked at, so it is not computed either, but for what a pooled cell at the
edge averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from .arithmetic import Term
from .siglip_block import BlockShape, block

PREFIX = "vision"
POOL = 2  # patches a side of one pooled cell
LAST_COORDINATE = np.array(1.0 - 1e-6, np.float32)


@dataclass(frozen=True)
class SiglipShape:
    """`layers` counts the blocks that are computed; `side` and `patch` are pixels."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    side: int
    patch: int
    norm_epsilon: float

    @property
    def patches(self) -> int:
        """Patches along one side of a crop."""
        return self.side // self.patch

    @property
    def cells(self) -> int:
        """Pooled vectors along one side of a crop."""
        return self.patches // POOL

    @property
    def block(self) -> BlockShape:
        """Each of its blocks."""
        return BlockShape(self.hidden, self.intermediate, self.heads, self.norm_epsilon)


def encode(graph: GraphBuilder, pixels: ir.Value, mask: ir.Value, shape: SiglipShape) -> ir.Value:
    """pixels float (1, 3, side, side), mask (patches, patches), nonzero where valid → float (cells², hidden).

    Each vector is the mean of the last computed block over `POOL` × `POOL` patches; zero where a cell is all padding.
    """
    valid = _valid(graph, mask, shape)
    flat_valid = valid.reshape(-1)
    cells = valid.every(POOL, (0, 1), shape.patches).expand(1, 3)
    in_cell = cells.apply("Expand", (shape.cells, POOL, shape.cells, POOL)).reshape(-1)
    needed = (in_cell | flat_valid).positions()
    keys = flat_valid.apply("Gather", needed, axis=0).positions().value
    positions = _positions(graph, valid, shape)
    embedded = graph.apply("Add", (patch_rows(graph, pixels, shape), positions), f"{PREFIX}.embedded")
    rows = graph.apply("Gather", (embedded, needed.value), f"{PREFIX}.rows", axis=0)
    x = graph.apply("Unsqueeze", (rows, [0]), f"{PREFIX}.sequence")
    for layer in range(shape.layers):
        x = block(graph, x, f"{PREFIX}.layers.{layer}", shape.block, keys)
    return _pool(graph, x, needed, shape)


def _valid(graph: GraphBuilder, mask: ir.Value, shape: SiglipShape) -> Term:
    """bool (patches, patches); the first patch alone where nothing is valid, as attention needs a key to look at."""
    first = np.zeros((shape.patches, shape.patches), np.bool_)
    first[0, 0] = True
    valid = Term(graph, graph.apply("Cast", (mask,), f"{PREFIX}.valid", to=int(ir.DataType.BOOL)), f"{PREFIX}.patch")
    empty = valid.number().sum(1).sum(0).equals(0)
    return valid | (empty & Term(graph, graph.constant(f"{PREFIX}.first_patch", first), empty.scope))


def patch_rows(graph: GraphBuilder, pixels: ir.Value, shape: SiglipShape) -> ir.Value:
    """(1, 3, side, side) → (patches², hidden)."""
    prefix = f"{PREFIX}.patch_embedding"
    kernel = graph.weight(f"{prefix}.weight", (shape.hidden, 3, shape.patch, shape.patch))
    bias = graph.weight(f"{prefix}.bias", (shape.hidden,))
    strides = [shape.patch] * 2
    grid = graph.apply("Conv", (pixels, kernel, bias), f"{prefix}.grid", strides=strides, kernel_shape=strides)
    columns = graph.apply("Reshape", (grid, [shape.hidden, shape.patches**2]), f"{prefix}.columns")
    return graph.apply("Transpose", (columns,), f"{prefix}.patches", perm=[1, 0])


def _positions(graph: GraphBuilder, valid: Term, shape: SiglipShape) -> ir.Value:
    """(patches², hidden): row of the table by the place within the valid part, row 0 for padding."""
    number = valid.number()
    row = _buckets(number.take(0, axis=1), "row", shape)
    column = _buckets(number.take(0, axis=0), "column", shape)
    return position_rows(graph, valid.where(row.expand(1) * shape.patches + column, 0).reshape(-1).value, shape)


def position_rows(graph: GraphBuilder, ids: ir.Value, shape: SiglipShape) -> ir.Value:
    """ids (patches²,) → the learned positions of these numbers, (patches², hidden)."""
    table = graph.weight(f"{PREFIX}.position_embedding.weight", (shape.patches**2, shape.hidden))
    return graph.apply("Gather", (table, ids), f"{PREFIX}.positions", axis=0)


def _buckets(line: Term, name: str, shape: SiglipShape) -> Term:
    """line int64 (patches,), 1 where valid → int64 (patches,): the table's row for i / n, the i-th of n valid patches.

    In float32, step by step as the checkpoint was trained: i / n on a boundary of two rows depends on its rounding.
    """
    graph, prefix = line.graph, f"{PREFIX}.{name}"
    count = graph.apply("Cast", (line.sum(0).value,), f"{prefix}.count", to=int(ir.DataType.FLOAT))
    step = graph.apply("Reciprocal", (count,), f"{prefix}.step")
    index = graph.constant(f"{prefix}.index", np.arange(shape.patches, dtype=np.float32)[:, None])
    fraction = graph.apply("Mul", (index, step), f"{prefix}.fraction")
    coordinate = graph.apply("Min", (fraction, graph.constant(f"{prefix}.last", LAST_COORDINATE)), f"{prefix}.place")
    edges = (np.arange(1, shape.patches) / shape.patches).astype(np.float32)
    passed = graph.apply("GreaterOrEqual", (coordinate, graph.constant(f"{prefix}.edges", edges)), f"{prefix}.passed")
    return Term(graph, passed, prefix).number().sum(1)


def _pool(graph: GraphBuilder, x: ir.Value, needed: Term, shape: SiglipShape) -> ir.Value:
    """(1, rows, hidden) back on the grid of patches, then the mean of each cell: (cells², hidden)."""
    cells, width = shape.cells, shape.hidden
    zeros = graph.apply("ConstantOfShape", ([shape.patches**2, width],), f"{PREFIX}.grid.zeros")
    rows = graph.apply("Squeeze", (x, [0]), f"{PREFIX}.grid.rows")
    grid = graph.apply("ScatterND", (zeros, needed.expand(1).value, rows), f"{PREFIX}.grid")
    split = graph.apply("Reshape", (grid, [cells, POOL, cells, POOL, width]), f"{PREFIX}.grid.split")
    pooled = graph.apply("ReduceMean", (split, [1, 3]), f"{PREFIX}.grid.pooled", keepdims=0)
    return graph.apply("Reshape", (pooled, [cells**2, width]), f"{PREFIX}.grid.cells")

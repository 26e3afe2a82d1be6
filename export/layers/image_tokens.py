"""The graph `vision`: crops of images in, the vectors that stand for the images in the prompt out.

An image comes as one small view of the whole and a grid of crops. Its vectors are, in the order "sub_glb": the rows of
the grid, trimmed to where the image is, each with a separator behind it; a separator; the rows of the small view, each
with a separator. All of it is one gather: the row numbers are computed for all images at once, without a loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from ..signatures import VisionInputs, vision_inputs, vision_output
from .arithmetic import Term
from .projector import projector
from .siglip import POOL, SiglipShape, encode

ROW_SEPARATOR = "vision.row_separator"
VIEW_SEPARATOR = "vision.view_separator"


@dataclass(frozen=True)
class _Grid:
    """Crops of each image: `rows`, `columns`, their product `area`, `start` (the image's first one), int64 (images,).

    `position` int64 (crops,) numbers the crops of one image from -1, the small view; `real` bool (images, crops) is
    false for the padding behind an image that has fewer crops than another.
    """

    rows: Term
    columns: Term
    area: Term
    start: Term
    position: Term
    real: Term


def vision_graph(shape: SiglipShape, hidden: int) -> ir.Model:
    """The graph `vision` for a decoder of width `hidden`.

    Crops are encoded one by one, so memory does not grow with their number, and none that is padding is encoded.
    """
    graph = GraphBuilder("vision")
    inputs = vision_inputs(graph, shape.side, shape.patches)
    grid = _grid(graph, inputs, shape.side)
    crops = graph.apply("Reshape", (inputs.pixels, [-1, 3, shape.side, shape.side]), "vision.crops")
    masks = graph.apply("Reshape", (inputs.mask, [-1, shape.patches, shape.patches]), "vision.masks")
    which = grid.real.reshape(-1).positions()

    def features_of(index: ir.Value) -> ir.Value:
        one = graph.apply("Unsqueeze", (index, [0]), "vision.crop_index")
        pixels = graph.apply("Gather", (crops, one), "vision.pixels", axis=0)
        return encode(graph, pixels, graph.apply("Gather", (masks, index), "vision.mask", axis=0), shape)

    features = graph.scan(which.value, "vision.features", features_of, (shape.cells**2, shape.hidden))
    flat = graph.apply("Reshape", (features, [-1, shape.hidden]), "vision.cells")
    separators = [graph.weight(name, (1, shape.hidden)) for name in (ROW_SEPARATOR, VIEW_SEPARATOR)]
    rows = graph.apply("Concat", (flat, *separators), "vision.cells_and_separators", axis=0)
    chosen = graph.apply("Gather", (rows, _order(inputs.mask, grid, which, shape)), "vision.tokens", axis=0)
    vision_output(graph, projector(graph, chosen, "vision.projector", shape.hidden, hidden), hidden)
    return graph.model()


def _grid(graph: GraphBuilder, inputs: VisionInputs, side: int) -> _Grid:
    tiles = Term(graph, inputs.sizes, "vision.grid") // side
    rows, columns = tiles.take(0, axis=1), tiles.take(1, axis=1)
    area = rows * columns
    crops = Term(graph, graph.apply("Shape", (inputs.mask,), "vision.grid.crops", start=1, end=2), "vision.grid")
    index = crops.reshape().range()
    return _Grid(rows, columns, area, (area + 1).sum_before(), index - 1, index <= area.expand(1))


def _order(mask: ir.Value, grid: _Grid, which: Term, shape: SiglipShape) -> ir.Value:
    """int64 (tokens,): for each token of each image its row among the cells of all crops and the two separators."""
    row_separator = which.apply("Size") * shape.cells**2
    sub, inside = _sub_view(mask, grid, row_separator, shape)
    between = (grid.start * 0 + row_separator + 1).expand(1)
    rest = between.joined(_whole_view(grid, row_separator, shape), axis=1)
    kept = inside.joined(rest >= 0, axis=1)
    return sub.joined(rest, axis=1).reshape(-1).apply("Compress", kept.reshape(-1).value, axis=0).value


def _sub_view(mask: ir.Value, grid: _Grid, separator: Term, shape: SiglipShape) -> tuple[Term, Term]:
    """Rows of the grid of crops with their separators, as large as the largest image, and which of them an image has.

    Both (images, height · (width + 1)), int64 and bool.
    """
    cells = shape.cells
    height, width = (value.expand(1, 2) for value in _useful(mask, grid, shape))
    down = (grid.rows.largest() * cells).range().expand(1)
    across = (grid.columns.largest() * cells + 1).range()
    crop = (down // cells) * grid.columns.expand(1, 2) + across // cells
    first = grid.start.expand(1, 2) + 1
    source = (crop + first) * cells**2 + (down % cells) * cells + across % cells
    rows = across.equals(width).where(separator, source)
    inside = (down < height) & (across <= width)
    return rows.apply("Flatten", axis=1), inside.apply("Flatten", axis=1)


def _useful(mask: ir.Value, grid: _Grid, shape: SiglipShape) -> tuple[Term, Term]:
    """Height and width in cells of the part of each grid that is no padding, read off its first column and row.

    Both int64 (images,).
    """
    cells = Term(grid.area.graph, mask, "vision.useful").number().every(POOL, (2, 3), shape.patches)
    columns, position = grid.columns.expand(1), grid.position
    own = (position >= 0) & (position < grid.area.expand(1))
    # at least 1: an integer division by zero would end the process
    left = own & (position % columns.at_least(1)).equals(0)
    top = own & (position < columns)
    height = left.where(cells.take(0, axis=3).sum(2), 0).sum(1)
    width = top.where(cells.take(0, axis=2).sum(2), 0).sum(1)
    return height, width


def _whole_view(grid: _Grid, separator: Term, shape: SiglipShape) -> Term:
    """int64 (images, cells · (cells + 1)): the rows of the small view of each image, a separator behind each."""
    cells = np.arange(shape.cells**2, dtype=np.int64).reshape(shape.cells, shape.cells)
    numbers = np.pad(cells, ((0, 0), (0, 1)), constant_values=-1).reshape(-1)
    graph, scope = separator.graph, "vision.whole"
    cell = Term(graph, graph.constant(f"{scope}.cell", numbers), scope)
    return (cell >= 0).where((grid.start * shape.cells**2).expand(1) + cell, separator)

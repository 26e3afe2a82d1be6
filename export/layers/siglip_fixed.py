"""The graph `vision` in fixed shapes: one crop at a time, for devices that take no others.

The same encoder as siglip.py and image_tokens.py draw for any number of crops of any part. Here all patches of a crop
are computed and padding is hidden from attention; which position a patch has, and in which order the rows of a picture
stand in the prompt, is computed by whoever runs the graph.
"""

from __future__ import annotations

import onnx_ir as ir

from ..graph import GraphBuilder
from ..signatures import IMAGE_FEATURES, crop_inputs, rows_output
from .image_tokens import ROW_SEPARATOR, VIEW_SEPARATOR
from .plain_attention import mask_bias
from .projector import projector
from .siglip import POOL, PREFIX, SiglipShape, patch_rows, position_rows
from .siglip_block import block


def crop_graph(shape: SiglipShape, hidden: int) -> ir.Model:
    """The graph `vision` for a decoder of width `hidden`.

    Its rows are the cells of the crop, row by row, then the separator behind a row of cells and the one between views.
    """
    graph, width, cells = GraphBuilder("vision"), shape.hidden, shape.cells
    inputs = crop_inputs(graph, shape.side, shape.patches**2)
    positions = position_rows(graph, inputs.positions, shape)
    embedded = graph.apply("Add", (patch_rows(graph, inputs.pixels, shape), positions), f"{PREFIX}.embedded")
    x, bias = graph.apply("Unsqueeze", (embedded, [0]), f"{PREFIX}.sequence"), mask_bias(graph, inputs.mask, PREFIX)
    for layer in range(shape.layers):
        x = block(graph, x, f"{PREFIX}.layers.{layer}", shape.block, bias=bias)
    split = graph.apply("Reshape", (x, [cells, POOL, cells, POOL, width]), f"{PREFIX}.grid.split")
    pooled = graph.apply("ReduceMean", (split, [1, 3]), f"{PREFIX}.grid.pooled", keepdims=0)
    flat = graph.apply("Reshape", (pooled, [cells**2, width]), f"{PREFIX}.grid.cells")
    separators = [graph.weight(name, (1, width)) for name in (ROW_SEPARATOR, VIEW_SEPARATOR)]
    rows = graph.apply("Concat", (flat, *separators), f"{PREFIX}.cells_and_separators", axis=0)
    batch = graph.apply("Unsqueeze", (rows, [0]), f"{PREFIX}.rows")
    projected = projector(graph, batch, f"{PREFIX}.projector", width, hidden)
    rows_output(graph, projected, IMAGE_FEATURES, cells**2 + 2, hidden)
    return graph.model()

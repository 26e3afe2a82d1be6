"""Rotary embedding of a part of each head as one of the whole head that turns the rest by nothing.

The operator pairs dimension i of a head with i + head_dim / 2. So the rows of the query and key projections are stored
as first half of the rotary part | first half of the rest | second half of the rotary part | second half of the rest,
and the tables go on with cosines of 1 and sines of 0. Queries and keys are permuted alike: their products stay.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..graph import STORED_SHAPE
from ..layers.attention import AttentionShape
from ..layers.rope import Table

if TYPE_CHECKING:
    from . import Draft

_TURNED = re.compile(r"model\.layers\.\d+\.self_attn\.qkv_proj\.(weight|lora_B\..*)")


def apply(draft: Draft) -> Draft:
    """Wider tables, and another order of the rows of every `qkv_proj` and of what adapters add to it."""
    shape, rotary = draft.decoder.attention, draft.decoder.rope.rotary_dim
    if rotary == shape.head_dim:
        return draft
    for model in draft.graphs.values():
        for name in ("rotary_cos", "rotary_sin"):
            if name in model.graph.initializers:
                value = model.graph.initializers[name]
                value.meta[STORED_SHAPE] = (value.meta[STORED_SHAPE][0], shape.head_dim // 2)
                value.shape = ir.Shape(value.meta[STORED_SHAPE])
    order = row_order(shape, rotary)
    rows = {
        name: order for model in draft.graphs.values() for name in model.graph.initializers if _TURNED.fullmatch(name)
    }
    wider = ((0, 0), (0, (shape.head_dim - rotary) // 2))
    tables = tuple(
        Table(table.limit, np.pad(table.cos, wider, constant_values=1), np.pad(table.sin, wider))
        for table in draft.tables
    )
    return replace(draft, tables=tables, rows={**draft.rows, **rows})


def row_order(shape: AttentionShape, rotary: int) -> tuple[int, ...]:
    """For each stored row of q | k | v, the published one."""
    half, rest = rotary // 2, (shape.head_dim - rotary) // 2
    head = [
        *range(half), *range(rotary, rotary + rest), *range(half, rotary), *range(rotary + rest, shape.head_dim),
    ]
    turned = shape.heads + shape.kv_heads
    order = [index * shape.head_dim + row for index in range(turned) for row in head]
    return (*order, *range(turned * shape.head_dim, shape.qkv_rows))

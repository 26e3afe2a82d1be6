"""Fixed shapes: a context processor that reads a window of positions, and a token iterator over the same weights.

Lengths come as a number instead of a mask: `seqlens_k`, int32 (1,), the valid positions with the window, minus one;
`logits_rows`, int32 (1,), is the position of the window whose logits are wanted. Keys and values have room for the
whole context from the start. One rotary table is built in, the one that serves that context.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..graph import STORED_SHAPE
from ..layers.rope import Table
from ..signatures import ATTENTION_MASK, INPUTS_EMBEDS, LOGITS

if TYPE_CHECKING:
    from . import Draft

LENGTHS, ROWS, TABLES = "seqlens_k", "logits_rows", ("rotary_cos", "rotary_sin")


def apply(draft: Draft) -> Draft:
    """Each decoder, as `text`, becomes a context processor, and a token iterator, as `text-step`, is added."""
    from . import STEP, is_decoder

    graphs: dict[str, ir.Model] = {}
    for part, wide in draft.graphs.items():
        graphs[part] = wide
        if not is_decoder(part):
            continue
        graphs[f"{part}{STEP}"] = single = wide.clone()
        for name, value in wide.graph.initializers.items():  # a copy has names and shapes, not what is noted on them
            single.graph.initializers[name].meta.update(value.meta)
        _fix(wide, draft, draft.window)
        _fix(single, draft, 1)
    serving = next(table for table in draft.tables if table.limit >= draft.context)
    table = Table(draft.context, serving.cos[: draft.context], serving.sin[: draft.context])
    return replace(draft, graphs=graphs, tables=(table,))


def _fix(model: ir.Model, draft: Draft, window: int) -> None:
    graph, shape = model.graph, draft.decoder
    lengths = ir.Value(name=LENGTHS, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape((1,)))
    rows = ir.Value(name=ROWS, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape((1,)))
    total = ir.Value(name="total_sequence_length", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape((1,)))
    total.const_value = ir.tensor(np.array([draft.context], np.int32), name=total.name)
    attention = next(node for node in graph if node.op_type == "GroupQueryAttention")
    before = attention.inputs[5], attention.inputs[6]
    for value, replacement in zip(before, (lengths, total), strict=True):
        assert value is not None
        ir.convenience.replace_all_uses_with(value, replacement)
    default = graph.initializers.pop(ROWS)
    ir.convenience.replace_all_uses_with(default, rows)
    unused = [node for node in graph if (node.name or "").startswith(f"{ATTENTION_MASK}.")]
    graph.remove(unused, safe=True)
    for name in [name for name in graph.initializers if name.startswith(f"{ATTENTION_MASK}.")]:
        del graph.initializers[name]
    graph.initializers.add(total)
    dropped = {ATTENTION_MASK, ROWS, *TABLES}
    inputs = [value for value in graph.inputs if value.name not in dropped]
    graph.inputs.clear()
    graph.inputs.extend([*inputs, lengths, rows])
    for name in TABLES:
        stored = (draft.context, shape.rope.rotary_dim // 2)
        graph.initializers[name].meta[STORED_SHAPE] = stored
        graph.initializers[name].shape = ir.Shape(stored)
    cache = ir.Shape((1, shape.attention.kv_heads, draft.context, shape.attention.head_dim))
    for value in [*graph.inputs, *graph.outputs]:
        name = value.name or ""
        if name.startswith(("past_key_values.", "present.")):
            value.shape = cache
        elif name == INPUTS_EMBEDS:
            value.shape = ir.Shape((1, window, shape.attention.hidden))
        elif name == LOGITS:
            value.shape = ir.Shape((1, 1, shape.vocabulary))

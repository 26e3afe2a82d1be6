"""The text decoder once more over an INT8 cache of keys and values, one scale a channel, for the same weights.

Boundary: rewrites a graph; the scales are an input, and who measures them is runtime/int8_cache.py. ONNX Runtime's
attention over INT8 takes half the time of float32 for a token and four times as long for a prompt. So a step of more
than FEW rows goes through float32: the old positions are dequantized, the new ones are attended as they are and rounded
afterwards. Both branches of the `If` write the cache in place where past and present are bound to one buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ..runtime.manifest import CACHE_SCALES, INT8_CACHE
from . import interop
from .graph import MICROSOFT
from .signatures import INPUT_IDS

FEW = 16  # rows up to which the INT8 kernel is the faster one: every step that verifies a guess is among them
ATTENTION = "GroupQueryAttention"
_QKV, _PAST, _LENGTHS, _TOTAL, _COS, _SIN = 0, (3, 4), 5, 6, 7, 8  # inputs of the operator
_LARGEST = np.float32(127)


def variants(part: str, parts: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
    """Name → graph: the decoder of a bundle that takes text alone, in free shapes, over an INT8 cache."""
    model, foreign = parts[part], interop.foreign(part, parts)
    alone = foreign == interop.MODEL != part and any(value.name == INPUT_IDS for value in model.graph.inputs)
    made = with_int8_cache(model) if alone else None
    return {} if made is None else {f"{part}{INT8_CACHE}": made}


def with_int8_cache(model: ir.Model) -> ir.Model | None:
    """A copy of a decoder that keeps its keys and values as int8; None where they are not float32.

    `cache_scales`: float32 (2 · layers, 1, kv_heads, 1, head_dim), of the key and the value of each layer in turn.
    """
    copy = ir.from_proto(ir.to_proto(model))
    layers = [node for node in copy.graph if node.op_type == ATTENTION]
    pasts = [_input(node, index) for node in layers for index in _PAST]
    if any(past.dtype != ir.DataType.FLOAT for past in pasts):
        return None
    assert pasts[0].shape is not None
    _, heads, _, width = pasts[0].shape
    shape = ir.Shape([len(pasts), 1, heads, 1, width])
    scales = ir.Value(name=CACHE_SCALES, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    required = sum(value.name not in copy.graph.initializers for value in copy.graph.inputs)
    copy.graph.inputs.insert(required, scales)
    shared = _Shared(copy.graph, layers[0], scales, len(pasts))
    for number, node in enumerate(layers):
        _replace(copy.graph, node, shared, shared.scales[2 * number : 2 * number + 2])
    for value in (*pasts, *(value for value in copy.graph.outputs if str(value.name).startswith("present."))):
        value.dtype = ir.DataType.INT8
    return copy


class _Nodes:
    """Collects nodes whose outputs are named after them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.made: list[ir.Node] = []

    def add(
        self, op_type: str, inputs: Sequence[ir.Value | None], *names: str, domain: str = "", **attributes: int
    ) -> tuple[ir.Value, ...]:
        """A node with an output for each of `names`."""
        outputs = [ir.Value(name=f"{self.prefix}.{name}") for name in names]
        self.made.append(ir.node(op_type, inputs, attributes, domain=domain, outputs=outputs, name=outputs[0].name))
        return tuple(outputs)


class _Shared:
    """What all layers read: whether there are many rows, where the new positions begin and end, and the scales."""

    def __init__(self, graph: ir.Graph, first: ir.Node, scales: ir.Value, count: int) -> None:
        self._graph = graph
        nodes = _Nodes("cache")
        total = _input(first, _TOTAL)
        self.axis, self.zero = self.constant("axis", np.array([2])), self.constant("zero", np.array([0]))
        self.end = self.constant("end", np.array([np.iinfo(np.int64).max]))
        self.largest, self.smallest = self.constant("largest", _LARGEST), self.constant("smallest", -_LARGEST)
        (shape,) = nodes.add("Shape", [_input(first, _QKV)], "shape")
        (rows,) = nodes.add("Gather", [shape, self.constant("row_axis", np.array(1))], "rows")
        (self.many,) = nodes.add("Greater", [rows, self.constant("few", np.array(FEW))], "many")
        (length,) = nodes.add("Cast", [total], "length", to=int(ir.DataType.INT64))
        (past,) = nodes.add("Sub", [length, rows], "past_length")
        (self.past,) = nodes.add("Unsqueeze", [past, self.zero], "past")
        (self.total,) = nodes.add("Unsqueeze", [length, self.zero], "total")
        split = nodes.add(
            "Split", [scales], *(f"scale_{index}" for index in range(count)), axis=0, num_outputs=count
        )
        self.scales = [nodes.add("Squeeze", [value, self.zero], f"{value.name}.flat")[0] for value in split]
        graph.insert_before(first, nodes.made)

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        """An initializer of the graph."""
        tensor = ir.tensor(np.asarray(array), name=f"cache.{name}")
        value = ir.Value(
            name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(np.shape(array))
        )
        self._graph.initializers.add(value)
        return value


def _replace(graph: ir.Graph, node: ir.Node, shared: _Shared, scales: Sequence[ir.Value]) -> None:
    branches = [
        ir.AttrGraph("then_branch", _many(node, shared, scales)), ir.AttrGraph("else_branch", _few(node, scales)),
    ]
    outputs = [ir.Value(name=output.name) for output in node.outputs]
    chosen = ir.Node("", "If", [shared.many], branches, outputs=outputs, name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [chosen], node.outputs, outputs)


def _few(node: ir.Node, scales: Sequence[ir.Value]) -> ir.Graph:
    """Attention over the INT8 cache as the operator does it."""
    attention = _attention(node, [_input(node, index) for index in _PAST], f"{node.name}.few", scales)
    return ir.Graph(inputs=[], outputs=_typed(attention.outputs), nodes=[attention], name=f"{node.name}.few")


def _many(node: ir.Node, shared: _Shared, scales: Sequence[ir.Value]) -> ir.Graph:
    """Attention in float32 over the dequantized past; what is new is rounded into its place."""
    nodes, pasts = _Nodes(f"{node.name}.many"), [_input(node, index) for index in _PAST]
    old: list[ir.Value] = []
    floats: list[ir.Value] = []
    for kind, past, scale in zip(("key", "value"), pasts, scales, strict=True):
        old += nodes.add("Slice", [past, shared.zero, shared.past, shared.axis], f"old_{kind}")
        (cast,) = nodes.add("Cast", [old[-1]], f"cast_{kind}", to=int(ir.DataType.FLOAT))
        floats += nodes.add("Mul", [cast, scale], f"float_{kind}")
    attention = _attention(node, floats, nodes.prefix)
    nodes.made.append(attention)
    presents: list[ir.Value] = []
    for index, (kind, past, scale) in enumerate(zip(("key", "value"), pasts, scales, strict=True)):
        (new,) = nodes.add(
            "Slice", [attention.outputs[1 + index], shared.past, shared.total, shared.axis], f"new_{kind}"
        )
        (steps,) = nodes.add("Div", [new, scale], f"steps_{kind}")
        (whole,) = nodes.add("Round", [steps], f"whole_{kind}")
        (bounded,) = nodes.add("Clip", [whole, shared.smallest, shared.largest], f"bounded_{kind}")
        (codes,) = nodes.add("Cast", [bounded], f"codes_{kind}", to=int(ir.DataType.INT8))
        # what lies behind the valid positions is part of the buffer
        (rest,) = nodes.add("Slice", [past, shared.total, shared.end, shared.axis], f"rest_{kind}")
        presents += nodes.add("Concat", [old[index], codes, rest], f"present_{kind}", axis=2)
    outputs = _typed([attention.outputs[0], *presents])
    return ir.Graph(inputs=[], outputs=outputs, nodes=nodes.made, name=nodes.prefix)


def _attention(
    node: ir.Node, pasts: Sequence[ir.Value], prefix: str, scales: Sequence[ir.Value] = ()
) -> ir.Node:
    """The operator of `node` over another cache, which `scales` make an INT8 one."""
    inputs: list[ir.Value | None] = [_input(node, _QKV), None, None, *pasts, _input(node, _LENGTHS)]
    inputs += [_input(node, index) for index in (_TOTAL, _COS, _SIN)]
    attributes = list(node.attributes.values())
    if scales:
        inputs += [None, None, None, *scales]
        attributes += [
            ir.AttrInt64("kv_cache_bit_width", 8), ir.AttrString("k_quant_type", "PER_CHANNEL"),
            ir.AttrString("v_quant_type", "PER_CHANNEL"),
        ]
    outputs = [ir.Value(name=f"{prefix}.{name}") for name in ("attended", "key", "value")]
    return ir.Node(MICROSOFT, ATTENTION, inputs, attributes, outputs=outputs, name=f"{prefix}.attention")


def _typed(values: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """Outputs of a branch: what is attended in float32, then keys and values in int8."""
    for value, dtype in zip(values, (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.INT8), strict=True):
        value.type = ir.TensorType(dtype)
    return values


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value

"""A decoder of the shape of a bundle whose weights are all zero: the graph that `probe` times.

Boundary: makes the bytes of an ONNX file and knows nothing of sessions. The kernels' time does not depend on values, so
every initializer shows the same hole of one file of external data, and ONNX Runtime packs a copy for each. The few
messages that are needed are written here: inference has no ONNX package. Field numbers: onnx/onnx.proto,
https://github.com/onnx/onnx; wire format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .manifest import TextModel

IR_VERSION, OPSET, MICROSOFT = 10, 21, "com.microsoft"
_FLOAT, _UINT8, _INT8, _INT64, _INT32 = 1, 2, 3, 7, 6
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _STRING_ATTRIBUTE = 1, 2, 3
_EXTERNAL = 1

Dimensions = Sequence[int | str]


@dataclass(frozen=True)
class Stored:
    """How a matrix is stored: `bits` 32 for float32, else 4 or 8 in blocks."""

    bits: int
    block_size: int = 0
    zero_points: bool = False


@dataclass(frozen=True)
class ProbeShape:
    """`text` says everything but the width of the feed-forward part, the formats of layers and head, and how keys and
    values are kept: `kv` is "float" or "int8", the latter in the kernel that single tokens go through.
    """

    text: TextModel
    intermediate: int
    linear: Stored
    head: Stored
    accuracy_level: int
    kv: str = "float"


def build(shape: ProbeShape, data: str) -> tuple[bytes, int]:
    """The graph over the data file `data`, and how many bytes that file must have."""
    graph = _Graph(data)
    text, wide = shape.text, (shape.text.heads + 2 * shape.text.kv_heads) * shape.text.head_dim
    graph.input("input_ids", _INT64, ("batch", "seq"))
    graph.input("attention_mask", _INT64, ("batch", "total"))
    frequencies = text.rotary[0].cos.shape[-1] if text.rotary else text.head_dim // 2
    for name in ("rotary_cos", "rotary_sin"):
        graph.overridable(name, _FLOAT, (1, frequencies), ("positions", frequencies))
    graph.overridable("logits_rows", _INT64, (1,), ("rows",))
    graph.weight("table", _FLOAT, (text.vocab_size, 1))
    graph.weight("width", _FLOAT, (1, text.hidden_size))
    graph.node("Gather", ["table", "input_ids"], ["row"])
    x = graph.node("Mul", ["row", "width"], ["x"])
    _lengths(graph)
    skip = x
    for layer in range(text.layers):
        normed, skip = _norm(graph, x, skip, f"{layer}.first", text.hidden_size)
        qkv = _product(graph, normed, f"{layer}.qkv", (wide, text.hidden_size), shape.linear, shape)
        mixed = _attention(graph, qkv, layer, shape)
        x = _product(graph, mixed, f"{layer}.o", (text.hidden_size, text.heads * text.head_dim), shape.linear, shape)
        normed, skip = _norm(graph, x, skip, f"{layer}.second", text.hidden_size)
        both = _product(graph, normed, f"{layer}.up", (2 * shape.intermediate, text.hidden_size), shape.linear, shape)
        graph.node("Split", [both], [f"{layer}.gate", f"{layer}.wide"], axis=-1, num_outputs=2)
        graph.node("QuickGelu", [f"{layer}.gate"], [f"{layer}.active"], domain=MICROSOFT, alpha=1.0)
        gated = graph.node("Mul", [f"{layer}.active", f"{layer}.wide"], [f"{layer}.gated"])
        x = _product(graph, gated, f"{layer}.down", (text.hidden_size, shape.intermediate), shape.linear, shape)
    normed, _ = _norm(graph, x, skip, "last", text.hidden_size)
    rows = graph.node("Gather", [normed, "logits_rows"], ["rows"], axis=1)
    _product(graph, rows, "logits", (text.vocab_size, text.hidden_size), shape.head, shape)
    graph.output("logits", _FLOAT, ("batch", "rows", text.vocab_size))
    return graph.model(), graph.largest


def _lengths(graph: _Graph) -> None:
    """Inputs of attention from the mask, as the exported graphs compute them."""
    graph.weight("axis", _INT64, (1,), raw=struct.pack("<q", 1))
    graph.weight("index", _INT64, (), raw=struct.pack("<q", 1))
    graph.node("ReduceSum", ["attention_mask", "axis"], ["valid"], keepdims=0)
    graph.node("Sub", ["valid", "axis"], ["last"])
    graph.node("Cast", ["last"], ["lengths"], to=_INT32)
    graph.node("Shape", ["attention_mask"], ["shape"])
    graph.node("Gather", ["shape", "index"], ["length"], axis=0)
    graph.node("Cast", ["length"], ["total"], to=_INT32)


def _norm(graph: _Graph, x: str, skip: str, name: str, width: int) -> tuple[str, str]:
    graph.weight(f"{name}.norm", _FLOAT, (width,))
    outputs = [f"{name}.normed", "", "", f"{name}.sum"]
    graph.node("SkipSimplifiedLayerNormalization", [x, skip, f"{name}.norm"], outputs, domain=MICROSOFT, epsilon=1e-5)
    return outputs[0], outputs[3]


def _attention(graph: _Graph, qkv: str, layer: int, shape: ProbeShape) -> str:
    text, dtype, scales, kind = shape.text, _FLOAT, list[str](), dict[str, int | str]()
    if shape.kv == "int8":
        dtype, scales = _INT8, ["", "", "", *(f"{layer}.{name}.scale" for name in ("key", "value"))]
        kind = {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
        ones = struct.pack("<f", 1) * (text.kv_heads * text.head_dim)  # it divides by them
        for name in scales[3:]:
            graph.weight(name, _FLOAT, (1, text.kv_heads, 1, text.head_dim), ones)
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    for name in past:
        graph.input(name, dtype, ("batch", text.kv_heads, "past", text.head_dim))
    mixed = graph.node(
        "GroupQueryAttention", [qkv, "", "", *past, "lengths", "total", "rotary_cos", "rotary_sin", *scales],
        [f"{layer}.mixed", *present], domain=MICROSOFT, num_heads=text.heads, kv_num_heads=text.kv_heads, do_rotary=1,
        scale=text.head_dim**-0.5, local_window_size=text.sliding_window or -1, **kind,
    )
    for name in present:
        graph.output(name, dtype, ("batch", text.kv_heads, "total", text.head_dim))
    return mixed


def _product(graph: _Graph, x: str, name: str, size: tuple[int, int], stored: Stored, shape: ProbeShape) -> str:
    """x · weightᵀ with a weight of `size` (outputs, inputs)."""
    n, k = size
    if stored.bits == 32:
        graph.weight(f"{name}.weight", _FLOAT, (n, k))
        return graph.node("FusedMatMul", [x, f"{name}.weight"], [name], domain=MICROSOFT, transB=1)
    blocks = -(-k // stored.block_size)
    graph.weight(f"{name}.codes", _UINT8, (n, blocks, stored.block_size * stored.bits // 8))
    graph.weight(f"{name}.scales", _FLOAT, (n, blocks))
    inputs = [x, f"{name}.codes", f"{name}.scales"]
    if stored.zero_points:
        graph.weight(f"{name}.zeros", _UINT8, (n, -(-blocks * stored.bits // 8)))
        inputs.append(f"{name}.zeros")
    return graph.node(
        "MatMulNBits", inputs, [name], domain=MICROSOFT, N=n, K=k, bits=stored.bits, block_size=stored.block_size,
        accuracy_level=shape.accuracy_level,
    )


@dataclass
class _Graph:
    """Collects the messages of one graph."""

    data: str
    largest: int = 0
    parts: list[bytes] = field(default_factory=list)

    def node(
        self, kind: str, inputs: Iterable[str], outputs: list[str], domain: str = "", **attributes: float | str
    ) -> str:
        """Add a node; returns its first output."""
        fields = [*(_text(1, name) for name in inputs), *(_text(2, name) for name in outputs)]
        fields += [_text(3, outputs[0]), _text(4, kind), *(_attribute(*item) for item in attributes.items())]
        self.parts.append(_message(1, [*fields, _text(7, domain)]))
        return outputs[0]

    def weight(self, name: str, dtype: int, shape: Sequence[int], raw: bytes | None = None) -> None:
        """Add an initializer: a hole of the data file, or `raw`."""
        nbytes = {_FLOAT: 4, _UINT8: 1, _INT64: 8}[dtype]
        for size in shape:
            nbytes *= size
        fields = [*(_number(1, size) for size in shape), _number(2, dtype), _text(8, name)]
        if raw is not None:
            fields.append(_bytes(9, raw))
        else:
            self.largest = max(self.largest, nbytes)
            where = {"location": self.data, "offset": "0", "length": str(nbytes)}
            fields += [_message(13, [_text(1, key), _text(2, value)]) for key, value in where.items()]
            fields.append(_number(14, _EXTERNAL))
        self.parts.append(_message(5, fields))

    def overridable(self, name: str, dtype: int, shape: Sequence[int], shown: Dimensions) -> None:
        """Add an input with a default."""
        self.weight(name, dtype, shape)
        self.input(name, dtype, shown)

    def input(self, name: str, dtype: int, shape: Dimensions) -> None:
        """Declare an input."""
        self.parts.append(_value(11, name, dtype, shape))

    def output(self, name: str, dtype: int, shape: Dimensions) -> None:
        """Declare an output."""
        self.parts.append(_value(12, name, dtype, shape))

    def model(self) -> bytes:
        """The whole file."""
        opsets = [_message(8, [_text(1, domain), _number(2, version)]) for domain, version in
                  (("", OPSET), (MICROSOFT, 1))]
        return b"".join([_number(1, IR_VERSION), *opsets, _message(7, [*self.parts, _text(2, "probe")])])


def _value(number: int, name: str, dtype: int, shape: Dimensions) -> bytes:
    sizes = [_message(1, [_number(1, size) if isinstance(size, int) else _text(2, size)]) for size in shape]
    return _message(number, [_text(1, name), _message(2, [_message(1, [_number(1, dtype), _message(2, sizes)])])])


def _attribute(name: str, value: float | str) -> bytes:
    if isinstance(value, str):
        return _message(5, [_text(1, name), _text(4, value), _number(20, _STRING_ATTRIBUTE)])
    if isinstance(value, int):
        return _message(5, [_text(1, name), _number(3, value), _number(20, _INT_ATTRIBUTE)])
    packed = _varint(2 << 3 | 5) + struct.pack("<f", value)
    return _message(5, [_text(1, name), packed, _number(20, _FLOAT_ATTRIBUTE)])


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _message(number: int, fields: Iterable[bytes]) -> bytes:
    return _bytes(number, b"".join(fields))


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, low ones first; negative numbers as 64 bits in two's complement."""
    value &= (1 << 64) - 1
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)

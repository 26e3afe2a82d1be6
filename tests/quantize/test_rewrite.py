"""Rewritten graphs, filled by their parts and run by ONNX Runtime, against the float graph over dequantized weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgephi.export.graph import MICROSOFT, GraphBuilder
from edgephi.quantize import methods, rewrite
from edgephi.quantize.formats import (
    BlockFormat,
    FloatFormat,
    Format,
    QuantizedTensor,
    ScreenedFormat,
    dequantize,
)

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
UINT4, INT8 = BlockFormat(4, 32), BlockFormat(8, 64, symmetric=True)
FLOAT16, FLOAT32 = FloatFormat("float16"), FloatFormat("float32")
Build = Callable[[], ir.Model]
ACCURATE = 1  # accuracy_level of float32 products; 8-bit ones have a slow kernel for it, which is fine at these sizes


def product(graph: GraphBuilder, x: ir.Value, name: str, outputs: int, inputs: int) -> ir.Value:
    weight = graph.weight(name, (outputs, inputs))
    (result,) = graph.node("FusedMatMul", (x, weight), f"{name}.matmul", domain=MICROSOFT, attributes={"transB": 1})
    return result


def language_model() -> ir.Model:
    """A tied embedding, one linear and a norm-like product with a vector."""
    graph = GraphBuilder("text")
    ids = graph.input("ids", INT64, ("batch", "seq"))
    table = graph.weight("embed", (40, 64))
    (x,) = graph.node("Gather", (table, ids), "embed.gather", attributes={"axis": 0})
    (x,) = graph.node("Mul", (x, graph.weight("norm", (64,))), "norm.mul")
    x = product(graph, x, "linear", 64, 64)
    graph.output(product(graph, x, "embed", 40, 64), "logits", FLOAT, ("batch", "seq", 40))
    return graph.model()


def encoder() -> ir.Model:
    """A convolution, a bias, a looked-up position table that is also added, and a linear."""
    graph = GraphBuilder("vision")
    pixels = graph.input("pixels", FLOAT, (2, 3, 8, 8))
    positions = graph.input("positions", INT64, ("patches",))
    kernel, bias = graph.weight("patch.kernel", (64, 3, 4, 4)), graph.weight("patch.bias", (64,))
    (x,) = graph.node("Conv", (pixels, kernel, bias), "patch", attributes={"strides": [4, 4]})
    x = graph.apply("Reshape", (x, (2, 64, 4)), "flatten")
    x = graph.apply("Transpose", (x,), "transpose", perm=[0, 2, 1])
    (place,) = graph.node("Gather", (graph.weight("positions.table", (4, 64)), positions), "place")
    (x,) = graph.node("Add", (x, place), "place.add")
    (x,) = graph.node("Add", (x, graph.weight("positions.table", (4, 64))), "place.again")
    graph.output(product(graph, x, "fc", 96, 64), "features", FLOAT, (2, 4, 96))
    return graph.model()


def gated_lora() -> ir.Model:
    """A linear and an adapter inside an `If`, whose gate is an overridable input; one weight is read on both sides."""
    graph = GraphBuilder("text")
    x = graph.input("x", FLOAT, ("batch", "seq", 64))
    gate = graph.overridable(graph.constant("gate", np.array(False)), ())
    plain = product(graph, x, "linear", 96, 64)

    def adapted() -> ir.Value:
        low = product(graph, x, "lora.a", 32, 64)
        (low,) = graph.node("Mul", (low, graph.weight("lora.scale", (32,))), "lora.scaled")
        (total,) = graph.node("Add", (plain, product(graph, low, "lora.b", 96, 32)), "lora.total")
        return total

    def untouched() -> ir.Value:
        (same,) = graph.node("Identity", (plain,), "lora.none")
        return same

    result = graph.choose(gate, "lora.choice", adapted, untouched)
    graph.output(product(graph, result, "shared", 96, 96), "out", FLOAT, ("batch", "seq", 96))
    return graph.model()


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    """Random weights for what a graph declares, the same for the same name."""
    arrays = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            rng = np.random.default_rng(sum(map(ord, name)))
            arrays[name] = (rng.standard_normal(value.meta["stored_shape"]) * 0.1).astype(np.float32)
    return arrays


def attach(model: ir.Model, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])


def stored(
    parts: Mapping[str, rewrite.Part], kept: Mapping[str, np.ndarray | QuantizedTensor]
) -> dict[str, np.ndarray]:
    """The initializers of a rewritten graph, cut from what is kept of each weight as a bundle writer does."""
    arrays = {}
    for name, part in parts.items():
        weight = kept[part.weight]
        if isinstance(weight, QuantizedTensor):
            kinds = {"codes": weight.codes_packed, "scales": weight.scales, "zero_points": weight.zero_points}
            array = kinds[part.kind]
        else:
            assert part.kind == "values"
            array = weight
        assert array is not None
        arrays[name] = np.frombuffer(array.tobytes(), part.dtype.numpy()).reshape(part.shape)
    return arrays


def kept_and_meant(
    arrays: Mapping[str, np.ndarray], formats: Mapping[str, Format]
) -> tuple[dict[str, np.ndarray | QuantizedTensor], dict[str, np.ndarray]]:
    """What is stored of each weight, and the float32 weight that it stands for."""
    kept: dict[str, np.ndarray | QuantizedTensor] = {}
    meant: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        fmt = formats[name]
        if isinstance(fmt, BlockFormat):
            tensor = methods.find("round_to_nearest").quantize(array, fmt, None)
            kept[name], meant[name] = tensor, dequantize(tensor)
        else:
            assert isinstance(fmt, FloatFormat)
            values = array.astype(fmt.dtype)
            kept[name], meant[name] = values, values.astype(np.float32)
    return kept, meant


def both(
    build: Build, formats: Mapping[str, Format], inputs: Mapping[str, np.ndarray], accuracy_level: int = ACCURATE
) -> tuple[np.ndarray, np.ndarray, ir.Model]:
    """Outputs of the rewritten graph and of the float graph over the weights that were meant, and the former graph."""
    rewritten, plain = build(), build()
    kept, meant = kept_and_meant(weights_of(plain), formats)
    attach(plain, meant)
    parts = rewrite.apply(rewritten, formats, accuracy_level)
    attach(rewritten, stored(parts, kept))
    result, expected = (session(model).run(None, dict(inputs))[0] for model in (rewritten, plain))
    return result, expected, rewritten


def nodes(model: ir.Model) -> list[str]:
    """Operators of the graph and of its branches."""
    return [node.op_type for node in model.graph.all_nodes()]


def close(result: np.ndarray, expected: np.ndarray) -> bool:
    """float32 sums of up to 96 products in another order: 1e-5 of the largest is ten times their rounding."""
    return bool(np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max())


IDS: dict[str, np.ndarray] = {"ids": np.array([[3, 39, 0], [7, 7, 12]], np.int64)}
PIXELS: dict[str, np.ndarray] = {
    "pixels": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32),
    "positions": np.array([2, 0, 3, 1], np.int64),
}
X: dict[str, np.ndarray] = {"x": np.random.default_rng(1).standard_normal((1, 5, 64)).astype(np.float32)}


@pytest.mark.parametrize("tied", [INT8, BlockFormat(4, 32), BlockFormat(8, 32)], ids=str)
@pytest.mark.parametrize("linear", [UINT4, BlockFormat(4, 64, True), INT8, FLOAT16, FLOAT32], ids=str)
def test_a_tied_table_is_stored_once_and_read_in_two_ways(tied: BlockFormat, linear: Format) -> None:
    formats = {"embed": tied, "linear": linear, "norm": FLOAT32}
    result, expected, model = both(language_model, formats, IDS)
    assert close(result, expected)
    assert nodes(model).count("GatherBlockQuantized") == 1
    assert nodes(model).count("MatMulNBits") == 1 + isinstance(linear, BlockFormat)
    assert "embed" not in model.graph.initializers
    parts = rewrite.apply(language_model(), formats, ACCURATE)
    codes, table = parts["embed.codes"], parts["embed.table"]
    assert (codes.weight, codes.kind, table.weight, table.kind) == ("embed", "codes", "embed", "codes")
    assert np.prod(codes.shape) == np.prod(table.shape)


@pytest.mark.parametrize("floats", [FLOAT16, FLOAT32], ids=str)
def test_floats_may_be_read_by_any_node(floats: FloatFormat) -> None:
    formats: dict[str, Format] = dict.fromkeys(("patch.kernel", "patch.bias", "positions.table"), floats)
    result, expected, model = both(encoder, formats | {"fc": INT8}, PIXELS)
    assert close(result, expected)
    assert nodes(model).count("Cast") == 1 + 3 * (floats == FLOAT16)
    assert nodes(model).count("MatMulNBits") == 1


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("accuracy_level", [ACCURATE, 4])
def test_products_inside_branches_are_rewritten(gate: bool, accuracy_level: int) -> None:
    formats: dict[str, Format] = {
        "linear": UINT4, "lora.a": INT8, "lora.b": BlockFormat(8, 32, symmetric=True), "lora.scale": FLOAT16,
        "shared": UINT4,
    }
    inputs = X | {"gate": np.array(gate)}
    result, expected, model = both(gated_lora, formats, inputs, accuracy_level)
    if accuracy_level == ACCURATE:
        assert close(result, expected)
    else:  # int8 activations: each of the products in a row adds about 1 % of noise
        assert np.linalg.norm(result - expected) <= 0.03 * np.linalg.norm(expected)
    assert nodes(model).count("MatMulNBits") == 4
    assert "FusedMatMul" not in nodes(model)
    assert [node.op_type for node in model.graph].count("MatMulNBits") == 2


def test_the_branches_differ() -> None:
    """The two parts of the test above are not the same computation."""
    model = gated_lora()
    attach(model, weights_of(model))
    off, on = (session(model).run(None, X | {"gate": np.array(gate)})[0] for gate in (False, True))
    assert np.linalg.norm(on - off) > 0.05 * np.linalg.norm(off)


def test_one_plan_serves_several_graphs() -> None:
    formats: dict[str, Format] = {
        "embed": INT8, "linear": UINT4, "norm": FLOAT32, "fc": INT8, "patch.kernel": FLOAT32, "patch.bias": FLOAT32,
        "positions.table": FLOAT32,
    }
    for build, inputs in ((language_model, IDS), (encoder, PIXELS)):
        result, expected, _ = both(build, formats, inputs)
        assert close(result, expected)


def test_accuracy_level_and_sizes_are_stamped() -> None:
    model = language_model()
    rewrite.apply(model, {"embed": INT8, "linear": UINT4, "norm": FLOAT32}, 4)
    linear, head = (node for node in model.graph if node.op_type == "MatMulNBits")
    wanted = {"N": 64, "K": 64, "bits": 4, "block_size": 32, "accuracy_level": 4}
    assert {name: attribute.as_int() for name, attribute in linear.attributes.items()} == wanted
    assert (len(linear.inputs), len(head.inputs)) == (4, 3)  # the symmetric head has no zero points
    assert model.graph.outputs[0].name == "logits"


@pytest.mark.parametrize(("op_type", "attributes", "weight_first"), [
    ("FusedMatMul", {}, False), ("FusedMatMul", {"transB": 1, "alpha": 0.5}, False),
    ("FusedMatMul", {"transB": 1}, True), ("Gather", {"axis": 1}, True), ("Add", {}, False),
])
def test_other_readers_of_blocks_are_named(
    op_type: str, attributes: dict[str, int | float], weight_first: bool
) -> None:
    graph = GraphBuilder("g")
    x = graph.input("x", INT64 if op_type == "Gather" else FLOAT, (64, 64))
    weight = graph.weight("w", (64, 64))
    operands = (weight, x) if weight_first else (x, weight)
    domain = MICROSOFT if op_type == "FusedMatMul" else ""
    (y,) = graph.node(op_type, operands, "reader", domain=domain, attributes=dict(attributes))
    graph.output(y, "y", FLOAT, (64, 64))
    with pytest.raises(ValueError, match=f"weight w is read by {op_type} reader; .* plan a float format"):
        rewrite.apply(graph.model(), {"w": UINT4}, 4)


@pytest.mark.parametrize("candidates", [1, 5, 40])
@pytest.mark.parametrize("exact", [INT8, BlockFormat(8, 32)], ids=str)
def test_the_best_logits_of_a_screened_head_are_exact(candidates: int, exact: BlockFormat) -> None:
    """Against the float graph over both forms: the largest coarse logits give way to exact ones, all others stay."""
    screen = BlockFormat(4, 32)
    others: dict[str, Format] = {"linear": INT8, "norm": FLOAT32}
    quantize, table = methods.find("round_to_nearest").quantize, weights_of(language_model())["embed"]
    forms = {"": quantize(table, exact, None), "screen_": quantize(table, screen, None)}
    rewritten = language_model()
    formats = others | {"embed": ScreenedFormat(screen, exact, candidates)}
    parts = rewrite.apply(rewritten, formats, ACCURATE)
    kept, _ = kept_and_meant({name: weights_of(language_model())[name] for name in others}, others)
    for form, tensor in forms.items():
        found = {name: part for name, part in parts.items() if part.weight == "embed"}
        mine = {name: part for name, part in found.items() if part.kind.startswith("screen_") == bool(form)}
        plain = {name: replace(part, kind=part.kind.removeprefix(form)) for name, part in mine.items()}
        attach(rewritten, stored(plain, {"embed": tensor}))
    attach(rewritten, stored({name: part for name, part in parts.items() if part.weight != "embed"}, kept))
    result = session(rewritten).run(["logits"], dict(IDS))[0]

    hidden = hidden_states(dequantize(forms[""]), others)
    coarse, fine = (hidden @ dequantize(forms[form]).T for form in ("screen_", ""))
    best = np.argsort(-coarse, axis=-1)[..., :candidates]
    expected = coarse.copy()
    np.put_along_axis(expected, best, np.take_along_axis(fine, best, axis=-1), axis=-1)
    assert close(result, expected)
    assert candidates == 40 or not close(coarse, fine)
    assert [value.name for value in rewritten.graph.outputs] == ["logits"]


def hidden_states(table: np.ndarray, formats: Mapping[str, Format]) -> np.ndarray:
    """What the head of `language_model` reads, float32 (batch, seq, 64), over an embedding of its own."""
    _, meant = kept_and_meant({name: weights_of(language_model())[name] for name in formats}, formats)
    result: np.ndarray = (table[IDS["ids"]] * meant["norm"]) @ meant["linear"].T
    return result


def test_a_graph_that_only_looks_up_has_no_part_of_the_screen() -> None:
    graph = GraphBuilder("embedding")
    ids = graph.input("ids", INT64, ("batch", "seq"))
    (x,) = graph.node("Gather", (graph.weight("embed", (40, 64)), ids), "embed.gather", attributes={"axis": 0})
    graph.output(x, "x", FLOAT, ("batch", "seq", 64))
    parts = rewrite.apply(graph.model(), {"embed": ScreenedFormat(UINT4, INT8, 4)}, ACCURATE)
    assert {part.kind for part in parts.values()} == {"codes", "scales"}

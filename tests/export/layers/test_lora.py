"""Adapters beside a linear: the first whose gate is on is added, the others cost nothing, also when quantized."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi.export.families import weight_shapes
from edgephi.export.graph import GraphBuilder
from edgephi.export.layers.decoder import text_graph
from edgephi.export.layers.lora import Adapter, adapted
from edgephi.quantize import rewrite
from edgephi.quantize.formats import BlockFormat, Format, dequantize
from edgephi.quantize.methods import find as find_method

INPUTS, OUTPUTS = 64, 96
ADAPTERS = (Adapter("vision", 32), Adapter("speech", 64))
WEIGHT = "model.layers.0.mlp.down_proj.weight"


def model_of(active: str | None = None) -> ir.Model:
    graph = GraphBuilder("product")
    x = graph.input("x", ir.DataType.FLOAT, ("batch", "seq", INPUTS))
    project = adapted(graph, ADAPTERS, active)
    graph.output(project(graph, x, WEIGHT, OUTPUTS, INPUTS), "y", ir.DataType.FLOAT, ("batch", "seq", OUTPUTS))
    return graph.model()


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        name: generator.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[1]))
        for name, shape in weight_shapes({"product": model}).items()
    }


def session_of(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # an input with a default is meant here
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


def expected(x: np.ndarray, weights: dict[str, np.ndarray], active: str | None) -> np.ndarray:
    product: np.ndarray = x @ weights[WEIGHT].T
    if active is not None:
        down, up = (weights[name] for name in Adapter(active, 0).factors(WEIGHT))
        product = product + x @ down.T @ up.T
    return product


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((1, 7, INPUTS)).astype(np.float32)


def test_names_are_those_of_the_published_checkpoint() -> None:
    names = set(weight_shapes({"product": model_of()}).items())
    stem = "model.layers.0.mlp.down_proj"
    assert names == {
        (WEIGHT, (OUTPUTS, INPUTS)),
        (f"{stem}.lora_A.vision.weight", (32, INPUTS)), (f"{stem}.lora_B.vision.weight", (OUTPUTS, 32)),
        (f"{stem}.lora_A.speech.weight", (64, INPUTS)), (f"{stem}.lora_B.speech.weight", (OUTPUTS, 64)),
    }


def test_no_branch_lies_in_a_branch() -> None:
    """ONNX Runtime packs the weights of a branch, but not those of a branch in a branch."""
    branches = [node for node in model_of().graph if node.op_type == "If"]
    assert len(branches) == len(ADAPTERS)
    inside = [node for branch in branches for name in ("then_branch", "else_branch")
              for node in branch.attributes[name].as_graph()]  # fmt: skip
    assert inside and all(node.op_type != "If" for node in inside)


@pytest.mark.parametrize("default", [None, "vision", "speech"])
def test_gates_pick_the_adapter(x: np.ndarray, default: str | None) -> None:
    model = model_of(default)
    weights = weights_of(model)
    for name, value in weights.items():
        model.graph.initializers[name].const_value = ir.tensor(value, name=name)
    session = session_of(model)
    gates = {value.name: value.shape for value in session.get_overridable_initializers()}
    assert gates == {"vision_lora": [], "speech_lora": []}
    (y,) = session.run(None, {"x": x})
    assert np.abs(y - expected(x, weights, default)).max() < 1e-5
    for vision, speech, active in (
        (False, False, None), (True, False, "vision"), (False, True, "speech"), (True, True, "vision"),
    ):
        (y,) = session.run(None, {"x": x, "vision_lora": np.array(vision), "speech_lora": np.array(speech)})
        assert np.abs(y - expected(x, weights, active)).max() < 1e-5


@pytest.mark.parametrize("active", [None, "vision", "speech"])
def test_quantized_factors_multiply_inside_their_branch(x: np.ndarray, active: str | None) -> None:
    """Against the dequantized factors: what is left is the rounding of the kernel's INT8 activations."""
    model = model_of(active)
    weights = weights_of(model)
    fmt = BlockFormat(8, 32, symmetric=True)
    formats: dict[str, Format] = dict.fromkeys(weights, fmt)
    method = find_method("round_to_nearest")
    quantized = {name: method.quantize(value, fmt, None) for name, value in weights.items()}
    for name, part in rewrite.apply(model, formats, 4).items():
        stored = {"codes": quantized[part.weight].codes_packed, "scales": quantized[part.weight].scales}[part.kind]
        model.graph.initializers[name].const_value = ir.tensor(stored.reshape(part.shape), name=name)
    assert [node.op_type for node in model.graph.all_nodes()].count("MatMulNBits") == 5
    assert not any(node.op_type == rewrite.MATMUL for node in model.graph.all_nodes())
    (y,) = session_of(model).run(None, {"x": x})
    wanted = expected(x, {name: dequantize(value) for name, value in quantized.items()}, active)
    assert np.abs(y - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_decoder_without_adapters_has_no_branches() -> None:
    from edgephi.export.families import phi4_multimodal

    shape = phi4_multimodal.TINY.text.shape(None)
    plain, adapting = (
        text_graph(shape, ir.DataType.FLOAT, adapters) for adapters in ((), phi4_multimodal.TINY.adapters)
    )
    assert not any(node.op_type == "If" for node in plain.graph.all_nodes())
    linears = 4 * shape.layers
    assert sum(node.op_type == "If" for node in adapting.graph.all_nodes()) == 2 * linears
    assert weight_shapes({"text": plain}).items() < weight_shapes({"text": adapting}).items()
    assert {value.name for value in plain.graph.inputs} == {value.name for value in adapting.graph.inputs} - {
        "vision_lora", "speech_lora",
    }

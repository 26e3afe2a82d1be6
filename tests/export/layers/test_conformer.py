"""The speech graph as it is declared: weights, contract, and what becomes of it under quantization."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi.export.layers.conformer import ConformerShape, speech_graph
from edgephi.quantize import rewrite
from edgephi.quantize.formats import BlockFormat, FloatFormat, QuantizedTensor, dequantize
from edgephi.quantize.methods import round_to_nearest

PUBLISHED = ConformerShape(
    mel_bins=80, subsampling=8, channels=1024, hidden=1024, heads=16, intermediate=1536, layers=24, kernel=3,
    bias_distance=500, output=3072,
)
SMALL = replace(PUBLISHED, channels=32, hidden=64, heads=4, intermediate=96, layers=2, output=64)
INT8 = BlockFormat(8, 32, symmetric=True)
ACCURACY_LEVEL = 4
# Products with activations of 8 bits are 0.5 % off each (ONNX Runtime's kernel); some twenty of them add up here.
ACTIVATION_TOLERANCE = 0.02


def declared(model: ir.Model) -> dict[str, tuple[int, ...]]:
    values = model.graph.initializers.items()
    return {name: value.meta["stored_shape"] for name, value in values if value.const_value is None}


def products(model: ir.Model) -> list[ir.Node]:
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.op_type == rewrite.MATMUL]


def weights_of(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = {name: 1 / np.sqrt(prod(shape[1:])) if len(shape) > 1 else 0.2 for name, shape in shapes.items()}
    return {
        name: (rng.standard_normal(shape) * spread[name] + name.endswith("norm.weight")).astype(np.float32)
        for name, shape in shapes.items()
    }


def run(model: ir.Model, arrays: dict[str, np.ndarray], frames: int) -> np.ndarray:
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # an input with a default is meant here
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    samples = np.random.default_rng(5).standard_normal((1, frames, SMALL.mel_bins)).astype(np.float32)
    feed = {
        "audio_embeds": samples, "audio_attention_mask": np.ones((1, frames), bool),
        "audio_sizes": np.array([-(-frames // SMALL.subsampling)]), "audio_projection_mode": np.array([2]),
    }
    (features,) = session.run(["audio_features"], feed)
    result: np.ndarray = features
    return result


def test_the_published_shape_declares_the_published_tensors() -> None:
    """879 encoder tensors of 441,238,144 parameters and two vectors of 80, and 8 projector tensors of 25,178,112."""
    shapes = declared(speech_graph(PUBLISHED))
    projector = {name: shape for name, shape in shapes.items() if ".projector." in name}
    encoder = {name: shape for name, shape in shapes.items() if name not in projector}
    assert (len(encoder), sum(map(prod, encoder.values()))) == (879, 441_238_144 + 2 * 80)
    assert (len(projector), sum(map(prod, projector.values()))) == (8, 25_178_112)


def test_the_contract_is_that_of_genai_and_the_rest_has_defaults() -> None:
    graph = speech_graph(PUBLISHED).graph
    required = [value for value in graph.inputs if value.name not in graph.initializers]
    assert [(value.name, value.dtype, len(value.shape or ())) for value in required] == [
        ("audio_embeds", ir.DataType.FLOAT, 3), ("audio_attention_mask", ir.DataType.BOOL, 2),
        ("audio_sizes", ir.DataType.INT64, 1), ("audio_projection_mode", ir.DataType.INT64, 1),
    ]
    assert [value.name for value in graph.inputs if value.name in graph.initializers] == ["audio_context"]
    (output,) = graph.outputs
    assert (output.name, output.dtype) == ("audio_features", ir.DataType.FLOAT)
    assert output.shape is not None and output.shape[1] == PUBLISHED.output


def test_only_products_have_matrices_that_can_be_quantized() -> None:
    """Ten products a block, the subsampling's and four of the projectors; convolutions, norms and biases stay float."""
    model = speech_graph(PUBLISHED)
    quantizable = [node.inputs[1] for node in products(model)]
    assert len(quantizable) == len(set(quantizable)) == PUBLISHED.layers * 11 + 1 + 4
    for value in model.graph.initializers.values():
        if value.const_value is None and len(value.meta["stored_shape"]) == 2 and value not in quantizable:
            assert value.name == "speech.relative_bias.weight"


def test_each_branch_reads_its_own_projector() -> None:
    (choice,) = (node for node in speech_graph(SMALL).graph if node.op_type == "If")
    for branch, own in (("then_branch", "vision"), ("else_branch", "speech")):
        nodes = list(choice.attributes[branch].as_graph())
        read = {value.name for node in nodes for value in node.inputs if value is not None and value.is_initializer()}
        prefixes = (f"speech.projector.{own}.{part}" for part in ("up", "down"))
        assert read == {f"{prefix}.{kind}" for prefix in prefixes for kind in ("weight", "bias")}


@pytest.mark.parametrize("frames", [300, 4300])
def test_quantized_products_differ_by_their_activations_alone(frames: int) -> None:
    reference, quantized = speech_graph(SMALL), speech_graph(SMALL)
    matrices = {str(node.inputs[1].name) for node in products(reference) if node.inputs[1] is not None}
    values = weights_of(declared(reference), seed=0)
    stored = {name: round_to_nearest.quantize(values[name], INT8, None) for name in matrices}
    formats = {name: INT8 if name in matrices else FloatFormat("float32") for name in values}
    parts = rewrite.apply(quantized, formats, ACCURACY_LEVEL)
    assert not products(quantized)
    shown = {
        name: values[part.weight] if part.kind == "values" else stored_part(stored[part.weight], part)
        for name, part in parts.items()
    }
    exact = {name: dequantize(stored[name]) if name in stored else value for name, value in values.items()}
    expected, actual = run(reference, exact, frames), run(quantized, shown, frames)
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert 0 < error <= ACTIVATION_TOLERANCE


def stored_part(tensor: QuantizedTensor, part: rewrite.Part) -> np.ndarray:
    array = tensor.codes_packed if part.kind == "codes" else tensor.scales
    return np.ascontiguousarray(array.reshape(part.shape))

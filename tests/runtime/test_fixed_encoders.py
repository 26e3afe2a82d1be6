"""Encoders of fixed shapes, and a decoder for each adapter, say what the graphs of free shapes say.

They run on the CPU here, so that only the order of summation differs from the bundle for the CPU; and in the NPU's
simulator where onnxruntime-qnn is installed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

import edgephi
from edgephi.export.compile import compile_bundle
from edgephi.export.graph import MICROSOFT, GraphBuilder
from edgephi.export.pipeline import export
from edgephi.export.verify import verify
from edgephi.runtime.audio import AudioInputs, count_tokens
from edgephi.runtime.fixed_encoders import patch_rows
from edgephi.runtime.graphs import Graph, Interrupt
from edgephi.runtime.image import Crop, ImageInputs, prepare_image
from edgephi.runtime.image_naflex import NaflexInputs
from edgephi.runtime.manifest import MODE_SPEECH, MODE_VISION_SPEECH, read_manifest
from edgephi.runtime.providers import find

from .simulator import apart, needs_simulator

SIDE, PATCH = 56, 14
# float32 on both sides; 1e-6 was seen.
APART = 1e-5
# Both round activations to int8 block by block, what differs in its last bit now and then elsewhere; 2.2 % was seen.
ROUNDED_APART = 6e-2
# float16 arithmetic against exact products; 0.3 % was seen of rows, 0.4 % of logits.
SIMULATED_APART = 1e-2


@dataclass(frozen=True)
class Pair:
    plain: edgephi.Session
    fixed: edgephi.Session
    folder: Path


@pytest.fixture(scope="module")
def checkpoint(tiny_multimodal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with crops of 4 × 4 patches, as a picture of published crops has 545 tokens at the least."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("checkpoint") / "small-crops"
    shutil.copytree(tiny_multimodal, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {"image_size": SIDE, "crop_size": SIDE}
    (folder / "config.json").write_text(json.dumps(config))
    for shard in folder.glob("model-*.safetensors"):
        tensors = load_file(shard)
        for name, tensor in tensors.items():
            if name.endswith("position_embedding.weight"):
                tensors[name] = tensor[: (SIDE // PATCH) ** 2].clone()
        save_file(tensors, shard)
    return folder


def _sessions(checkpoint: Path, folder: Path, precision: str) -> Iterator[Pair]:
    export(checkpoint, folder / "cpu", precision=precision, threads=1)
    export(checkpoint, folder / "npu", precision=precision, device="npu", context=1024, threads=1)
    plain = edgephi.load(folder / "cpu", prefix_cache=False, threads=1)
    fixed = edgephi.load(folder / "npu", prefix_cache=False, threads=1)
    yield Pair(plain, fixed, folder / "npu")
    plain.close()
    fixed.close()


@pytest.fixture(scope="module")
def pair(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Bundles for the CPU and for an NPU that differ in the form of their graphs alone."""
    yield from _sessions(checkpoint, tmp_path_factory.mktemp("exact"), "fp32")


@pytest.fixture(scope="module")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _sessions(checkpoint, tmp_path_factory.mktemp("quantized"), "int8")


def _picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8))


def _recording(frames: int) -> AudioInputs:
    features = np.random.default_rng(frames).normal(12, 3, (frames, 80)).astype(np.float32)
    return AudioInputs(features, count_tokens(frames), 0, str(frames))


def _asked(*parts: object) -> list[dict[str, Any]]:
    kinds = {str: "text", Image.Image: "image", AudioInputs: "audio"}
    content = [{"type": kinds[type(part)], kinds[type(part)]: part} for part in parts]
    return [{"role": "user", "content": content}]


def _image_rows(session: edgephi.Session, image: ImageInputs) -> np.ndarray:
    encoder = session._model._encoders.image
    assert encoder is not None
    return encoder.encode(image, Interrupt())


def _speech_rows(session: edgephi.Session, recording: AudioInputs, mode: int) -> np.ndarray:
    encoder = session._model._encoders.speech
    assert encoder is not None
    return encoder.encode(recording, mode, Interrupt())


# Crops that are whole, cut at the right, cut at the bottom, and padding alone.
@pytest.mark.parametrize("size", [(56, 56), (112, 56), (100, 56), (56, 90), (300, 40), (40, 300), (230, 170)], ids=str)
def test_a_picture_gives_the_same_rows_crop_by_crop(size: tuple[int, int], pair: Pair) -> None:
    image = prepare_image(_picture(*size), crop=Crop(SIDE, PATCH))
    rows = _image_rows(pair.fixed, image)
    assert len(rows) == image.tokens and apart(rows, _image_rows(pair.plain, image)) < APART


# Less than a step, whole and broken steps, a whole window, one frame more, and the filled end of a second window.
@pytest.mark.parametrize("frames", [1, 8, 101, 3999, 4000, 4001, 6500])
@pytest.mark.parametrize("mode", [MODE_SPEECH, MODE_VISION_SPEECH])
def test_a_recording_gives_the_same_rows_window_by_window(frames: int, mode: int, pair: Pair) -> None:
    recording = _recording(frames)
    rows = _speech_rows(pair.fixed, recording, mode)
    assert len(rows) == recording.tokens and apart(rows, _speech_rows(pair.plain, recording, mode)) < APART


@pytest.mark.parametrize("side", [5, 16])
def test_a_picture_as_large_as_the_learned_square_takes_each_place_once(side: int) -> None:
    """A checkpoint says how many positions it has learned; padding takes none of them."""
    count, capacity = side**2, side**2 + 3
    taken: list[np.ndarray] = []

    def run(feeds: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        taken.append(feeds["position_weights"])
        pixels: np.ndarray = feeds["pixel_values"]
        return pixels.reshape(capacity, -1)

    patches = np.arange(count * 4, dtype=np.float32).reshape(count, 4)
    rows = patch_rows(NaflexInputs(patches, (side, side), count, ""), capacity, count, run)
    assert np.array_equal(rows, patches) and np.array_equal(taken[0], np.eye(capacity, count, dtype=np.float32))


def test_every_prompt_gets_the_decoder_of_its_media(pair: Pair) -> None:
    picture, recording = _picture(100, 56), _recording(101)
    for parts, decoder in (
        (("what is it",), "text"), ((picture, "what is it"), "text-vision"), ((recording,), "text-speech"),
        ((picture, recording, "and now"), "text-vision"), (("what is it",), "text"),
    ):
        given = pair.fixed.chat(_asked(*parts), max_tokens=8, temperature=0)
        assert given.token_ids == pair.plain.chat(_asked(*parts), max_tokens=8, temperature=0).token_ids
        assert pair.fixed.loaded[0] == decoder
        assert apart(pair.fixed.logits(_asked(*parts)), pair.plain.logits(_asked(*parts))) < APART


def test_turns_about_a_picture_go_on_behind_what_was_read(pair: Pair) -> None:
    messages = _asked(_picture(112, 56), "what is it")
    first = pair.fixed.chat(messages, max_tokens=8, temperature=0)
    messages += [first.message, *_asked("and why")]
    second = pair.fixed.chat(messages, max_tokens=8, temperature=0)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens
    assert second.token_ids == pair.plain.chat(messages, max_tokens=8, temperature=0).token_ids


def test_a_conversation_outlasts_the_decoder_of_another_one(pair: Pair) -> None:
    with edgephi.load(pair.folder, prefix_cache=edgephi.PrefixCache(), threads=1) as session:
        messages = _asked("what does the sign say? " * 10)
        first = session.chat(messages, max_tokens=1, temperature=0)
        session.chat(_asked(_picture(112, 56), "what is it"), max_tokens=1, temperature=0)
        again = session.chat(messages, max_tokens=1, temperature=0)
        assert first.usage.cached_tokens == 0 < first.usage.prompt_tokens - again.usage.cached_tokens <= 64
        assert again.token_ids == first.token_ids


def test_blocks_are_rounded_alike(quantized: Pair) -> None:
    image, recording = prepare_image(_picture(100, 56), crop=Crop(SIDE, PATCH)), _recording(900)
    assert apart(_image_rows(quantized.fixed, image), _image_rows(quantized.plain, image)) < ROUNDED_APART
    found, wanted = (_speech_rows(each, recording, MODE_SPEECH) for each in (quantized.fixed, quantized.plain))
    assert apart(found, wanted) < ROUNDED_APART
    for parts in ((_picture(100, 56), "what"), (recording, "what")):
        assert apart(quantized.fixed.logits(_asked(*parts)), quantized.plain.logits(_asked(*parts))) < ROUNDED_APART


def test_graphs_are_fixed_without_branches_and_share_their_weights(quantized: Pair) -> None:
    manifest = read_manifest(quantized.folder)
    decoders = {f"{name}{step}" for name in ("text", "text-vision", "text-speech") for step in ("", "-step")}
    assert set(manifest.graphs) == {*decoders, "embedding", "vision", "speech"}
    for name in ("vision", "speech", *decoders):
        graph = ir.load(quantized.folder / manifest.graphs[name].file).graph
        for value in [*graph.inputs, *graph.outputs]:
            assert value.shape is not None and all(isinstance(size, int) for size in value.shape), (name, value.name)
        assert not {"If", "Scan", "Loop", "NonZero", "Compress", "MultiHeadAttention"} & {
            node.op_type for node in graph
        }
    for name in decoders:
        adapted = "vision" in name or "speech" in name
        assert set(manifest.graphs[name].data) == {"text.onnx.data", *(["lora.onnx.data"] if adapted else [])}
    whole = sum(record.bytes_after for record in manifest.report)
    stored = sum(record.size for name, record in manifest.files.items() if name.endswith(".data"))
    tables = 2 * 4 * manifest.text.context_length * manifest.text.head_dim
    assert stored < 1.2 * whole + tables  # nothing is stored twice
    assert set(verify(quantized.folder, threads=1).graphs) == set(manifest.graphs)


@needs_simulator
@pytest.mark.parametrize("name", ["vision", "speech"])
def test_an_encoder_runs_on_the_simulated_npu_whole(name: str, quantized: Pair) -> None:
    """No operator of it is refused."""
    path, simulator = quantized.folder / f"{name}.onnx", find("qnn_simulator")
    model = ir.load(path)
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    exact = Graph(path, find("cpu"), 1, model=ir.to_proto(model).SerializeToString())
    simulated = Graph(path, simulator, 1)
    session = simulated._session
    assert session is not None and simulated.left_to_cpu == {}
    (only,) = session.get_provider_graph_assignment_info()  # one part: nothing crosses over within a run
    assert only.ep_name == simulator.ort_name
    random, feeds = np.random.default_rng(0), dict[str, np.ndarray]()
    for key, tensor in exact.inputs.items():
        shape = [int(size) for size in tensor.shape]
        feeds[key] = np.ones(shape, tensor.dtype)
        if key.endswith("_mask"):
            feeds[key][:, shape[1] * 3 // 4 :] = 0
        elif tensor.dtype.kind == "f":
            feeds[key] = random.normal(0, 1, shape).astype(tensor.dtype)
    wanted, given = exact.run(feeds), simulated.run(feeds)
    for key, value in wanted.items():
        assert apart(given[key], value) < SIMULATED_APART, key


def _product(inputs: int, block: int, shape: tuple[int, ...]) -> ir.Model:
    """A block-quantized product of 64 outputs."""
    graph, blocks = GraphBuilder("product"), -(-inputs // block)
    codes = graph.constant("codes", np.full((64, blocks, block), 128, np.uint8))
    operands = (graph.input("x", ir.DataType.FLOAT, (*shape, inputs)), codes, graph.constant(
        "scales", np.ones((64, blocks), np.float32)
    ))
    attributes: dict[str, Any] = {"N": 64, "K": inputs, "bits": 8, "block_size": block, "accuracy_level": 4}
    (y,) = graph.node("MatMulNBits", operands, "y", domain=MICROSOFT, attributes=attributes)
    graph.output(y, "out", ir.DataType.FLOAT, (*shape, 64))
    return graph.model()


def _attention() -> ir.Model:
    graph = GraphBuilder("attention")
    rows = [graph.input(name, ir.DataType.FLOAT, (1, 16, 64)) for name in ("q", "k", "v")]
    (y,) = graph.node("MultiHeadAttention", rows, "y", domain=MICROSOFT, attributes={"num_heads": 2})
    graph.output(y, "out", ir.DataType.FLOAT, (1, 16, 64))
    return graph.model()


def _places() -> ir.Model:
    graph = GraphBuilder("places")
    found = graph.apply("NonZero", (graph.input("x", ir.DataType.BOOL, (8,)),), "y")
    graph.output(found, "out", ir.DataType.INT64, (1, "found"))
    return graph.model()


@needs_simulator
@pytest.mark.parametrize(("model", "refused"), [
    (_product(128, 64, (1, 4)), None),
    (_product(128, 64, (4,)), "MatMulNBits"),  # so rows come as a batch
    (_product(48, 32, (1, 4)), "MatMulNBits"),  # so what ends in the middle of a block stays float32
    (_attention(), "MultiHeadAttention"),  # so attention is drawn in single steps
    (_places(), "NonZero"),  # so what depends on a picture is computed outside
], ids=["product", "product of rows", "padded blocks", "fused attention", "places"])
def test_what_the_compiler_refuses_is_drawn_otherwise(model: ir.Model, refused: str | None, tmp_path: Path) -> None:
    ir.save(model, tmp_path / "graph.onnx")
    if refused is None:
        assert Graph(tmp_path / "graph.onnx", find("qnn_simulator"), 1).left_to_cpu == {}
        return
    with pytest.raises(edgephi.ProviderUnavailable, match=f"does not take {refused} on CPUExecutionProvider"):
        Graph(tmp_path / "graph.onnx", find("qnn_simulator"), 1)


@needs_simulator
def test_the_simulated_npu_answers_about_media_like_the_cpu(pair: Pair) -> None:
    with edgephi.load(pair.folder, device="qnn_simulator", prefix_cache=False) as simulated:
        for parts in ((_picture(100, 56), "what is it"), (_recording(101), "what is it")):
            wanted = pair.plain.chat(_asked(*parts), max_tokens=4, temperature=0)
            given = simulated.chat(_asked(*parts), max_tokens=4, temperature=0)
            assert given.token_ids == wanted.token_ids
            assert set(given.usage.encoder_devices.values()) == {"qnn_simulator"} and simulated.left_to_cpu == {}


@needs_simulator
def test_encoders_are_compiled_each_by_itself(pair: Pair, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pair.folder, tmp_path / "npu"))
    (form,) = compile_bundle(folder, ["x-elite"]).compiled
    assert form.shared_weights and form.graphs.keys() == read_manifest(folder).graphs.keys() - {"embedding"}
    weights = {name: set(graph.data) for name, graph in form.graphs.items()}
    decoders = set[str]().union(*(files for name, files in weights.items() if name.startswith("text")))
    assert len(decoders) == 1 and not weights["vision"] & (decoders | weights["speech"]) and weights["speech"]
    for name in ("vision", "speech"):
        assert [node.op_type for node in ir.load(folder / form.graphs[name].file).graph] == ["EPContext"]
    # the simulator opens no shared weights, which keeps encoders from nothing
    with edgephi.load(folder, vision_device="qnn_simulator:x-elite", prefix_cache=False) as session:
        assert session.encoder_devices["vision"] == (
            "qnn_simulator", "asked for; compiled ahead of time for x-elite"
        )
        image = prepare_image(_picture(100, 56), crop=Crop(SIDE, PATCH))
        assert apart(_image_rows(session, image), _image_rows(pair.plain, image)) < SIMULATED_APART

"""What a device asks of its graphs: fixed shapes, plain norms, whole-head rotary embedding, half precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

import edgephi
from edgephi import ExportError
from edgephi.export.layers.attention import AttentionShape
from edgephi.export.lowering import reordered
from edgephi.export.lowering.full_rotary import row_order
from edgephi.export.pipeline import export
from edgephi.export.verify import verify
from edgephi.export.weights import Binding, Piece
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.providers import find

# Operators that the NPU's compiler took when it was asked (float32 and float16, fixed shapes).
ON_NPU = {
    "MatMulNBits", "GroupQueryAttention", "SimplifiedLayerNormalization", "Add", "Mul", "Split", "QuickGelu", "Gather",
    "Cast",
}
# float16 keeps 11 bits; 0.10 % was seen. Blocks of int8 round activations once more: 2.9 % was seen.
HALF_APART, BLOCKS_APART = 4e-3, 5e-2


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", ["mini", "mini-untied", "phi35"])
def test_graphs_for_an_npu_are_fixed_and_plain(
    name: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    export(tiny_checkpoint(name), tmp_path / "npu", device="npu", context=200, threads=1)
    manifest = read_manifest(tmp_path / "npu")
    assert manifest.text.context_length == 192  # whole windows
    assert [table.limit for table in manifest.text.rotary] == [192]
    for part, window in (("text", 64), ("text-step", 1)):
        graph = ir.load(tmp_path / "npu" / f"{part}.onnx").graph
        assert {node.op_type for node in graph} <= ON_NPU
        for value in [*graph.inputs, *graph.outputs]:
            assert value.shape is not None and all(isinstance(size, int) for size in value.shape), value.name
        shapes = {value.name: tuple(value.shape or ()) for value in graph.inputs}
        assert shapes["inputs_embeds"] == (1, window, manifest.text.hidden_size)
        assert shapes["past_key_values.0.key"][2] == 192
        assert graph.initializers["rotary_cos"].shape == ir.Shape((192, manifest.text.head_dim // 2))
        assert not set(graph.initializers) & {str(value.name) for value in graph.inputs}  # nothing to override


def test_a_whole_head_turned_with_padded_tables_scores_like_a_part_of_it() -> None:
    """Rotary embedding by its definition: pairs (i, i + half) of the turned part; scores are products of q and k."""
    shape, rotary, positions = AttentionShape(48, 3, 1, 16, None), 12, 5
    random = np.random.default_rng(0)
    rows = random.normal(size=(positions, shape.qkv_rows))
    angle = np.outer(np.arange(positions), 1 / 10 ** np.arange(rotary // 2))

    def turn(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
        half = angles.shape[1]
        a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=1)

    def scores(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
        heads = [turn(x[:, 16 * head : 16 * head + 16], angles) for head in range(4)]
        return np.stack([query @ heads[3].T for query in heads[:3]])

    wider = np.pad(angle, ((0, 0), (0, 2)))  # an angle of 0: cosine 1, sine 0
    permuted = rows[:, row_order(shape, rotary)]
    np.testing.assert_allclose(scores(permuted, wider), scores(rows, angle), rtol=1e-12, atol=1e-12)
    assert (permuted[:, 64:] == rows[:, 64:]).all()  # values stay
    assert not np.allclose(scores(permuted, angle), scores(rows, angle))


def test_rows_in_another_order_are_read_in_as_few_pieces_as_can_be() -> None:
    pieces = (Piece("a", 10, 4, 3), Piece("b", 0, 2, 3, 0.5))
    order = (4, 5, 0, 1, 3, 2)
    made = reordered(Binding({"w": pieces, "other": pieces}, ()), {"w": order}).weights
    assert made["other"] == pieces
    assert made["w"] == (
        Piece("b", 0, 2, 3, 0.5), Piece("a", 10, 2, 3), Piece("a", 19, 1, 3), Piece("a", 16, 1, 3),
    )


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("mini", {"device": "npu", "context": 100}, "the context is 100; .* take 128 to 16384 tokens"),
        ("mini", {"device": "npu", "context": 20000}, "the context is 20000; .* take 128 to 16384 tokens"),
        ("mini", {"device": "gpu", "context": 4096}, "takes conversations of any length .* leave out --context"),
        ("window", {"device": "npu"}, "attends within a sliding window, which has no form of fixed shapes"),
    ],
)
def test_what_has_no_form_is_refused_before_anything_is_written(
    name: str, options: dict[str, object], reason: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=reason):
        export(tiny_checkpoint(name), tmp_path / "bundle", threads=1, **options)  # type: ignore[arg-type]  # mixed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("precision", "allowed"), [("fp16", HALF_APART), ("int4", BLOCKS_APART)])
def test_half_precision_says_what_single_precision_says(
    precision: str, allowed: float, tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Run on the CPU, whose kernels take float16, too."""
    export(tiny_checkpoint("mini"), tmp_path / "gpu", precision=precision, device="gpu", threads=1)
    assert read_manifest(tmp_path / "gpu").device == "webgpu"
    verify(tmp_path / "gpu", checkpoint=str(tiny_checkpoint("mini")), threads=1)  # every layer, against its precision
    ids = np.random.default_rng(3).integers(5, 380, 80).tolist()
    with edgephi.load(tiny_bundle("mini", precision=precision), prefix_cache=False, threads=1) as plain:
        wanted = plain.logits(ids)
    with edgephi.load(tmp_path / "gpu", prefix_cache=False, threads=1) as half:
        assert half._model.decoder.cache.shape.dtype == np.float16
        assert _apart(half.logits(ids), wanted) < allowed
        assert half.generate(ids, max_tokens=3, temperature=0).usage.completion_tokens >= 1


def test_half_precision_takes_pictures_and_speech(
    tiny_multimodal: Path, tiny_multimodal_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    export(tiny_multimodal, tmp_path / "gpu", precision="fp16", device="gpu", threads=1)
    parts = (
        {"type": "image", "image": Image.new("RGB", (60, 40), (200, 30, 90))},
        {"type": "audio", "audio": (np.sin(np.arange(16000) / 9).astype(np.float32), 16000)},
    )
    prompts = [[{"role": "user", "content": [part, {"type": "text", "text": "what"}]}] for part in parts]
    with (
        edgephi.load(tiny_multimodal_bundle("fp16"), prefix_cache=False, threads=1) as plain,
        edgephi.load(tmp_path / "gpu", prefix_cache=False, threads=1) as half,
    ):
        for prompt in prompts:
            assert _apart(half.logits(prompt), plain.logits(prompt)) < HALF_APART


def test_what_runs_on_a_cpu_bundle_runs_on_a_gpu_and_not_the_other_way() -> None:
    cpu, gpu, npu = find("cpu"), find("webgpu"), find("qnn")
    assert gpu.refusal(cpu) is None and cpu.refusal(gpu) is None and cpu.refusal(npu) is None
    assert "float16" in str(npu.refusal(gpu)) and "full_rotary" in str(npu.refusal(cpu))

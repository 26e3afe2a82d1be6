"""`verify`: what agrees, and which stage is named when one does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgephi import BundleError, CheckpointError, HashMismatch, ManifestError, NonFiniteLogits
from edgephi.export.pipeline import export
from edgephi.export.verify import _try, verify
from edgephi.runtime.graphs import Graph
from edgephi.runtime.manifest import FileRecord, read_manifest, write_manifest
from edgephi.runtime.providers import find

STAGES = [
    "embedding", "layer 0 attention", "layer 0 feed-forward", "layer 1 attention", "layer 1 feed-forward", "head",
]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("name", ["mini", "phi4", "phi35", "window"])
def test_every_stage_agrees_with_the_checkpoint(
    tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path], name: str, precision: str
) -> None:
    result = verify(tiny_bundle(name, precision=precision), checkpoint=str(tiny_checkpoint(name)))
    assert [stage.name for stage in result.layers] == STAGES
    assert all(stage.error <= stage.allowed for stage in result.layers)
    # what is allowed stays far below the error of a wrong result, which is about 1
    assert all(stage.allowed < (0.45 if precision == "int4" else 0.06) for stage in result.layers)


def test_a_screened_head_is_compared_where_it_is_exact_and_as_a_whole(
    tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path]
) -> None:
    bundle = tiny_bundle("mini", precision="int4", preset="fast", vocab_size=2048)
    result = verify(bundle, checkpoint=str(tiny_checkpoint("mini", vocab_size=2048)))
    assert [stage.name for stage in result.layers] == [*STAGES, "screening"]
    head, screening = result.layers[-2:]
    assert head.error < 0.03 < screening.error < screening.allowed < 0.4


def test_the_report_counts_files_and_names_what_is_not_listed(tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle("mini"), tmp_path / "copy"))
    (bundle / "notes.txt").write_text("mine")
    seen: list[tuple[str, int, int]] = []
    result = verify(bundle, progress=lambda *step: seen.append(step))
    manifest = read_manifest(bundle)
    assert result.files == len(manifest.files) and result.unlisted == ("notes.txt",) and result.layers == ()
    assert result.graphs == ("model", "model-long", "text", "text-int8-cache")
    assert result.nbytes == sum(record.size for record in manifest.files.values())
    assert ("hashes", result.nbytes, result.nbytes) in seen


@pytest.fixture
def changed(tiny_bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """(precision, {initializer: function of its stored array}) → a bundle with other weights and honest hashes."""

    def make(precision: str, changes: dict[str, Callable[[np.ndarray], np.ndarray]]) -> Path:
        bundle = Path(shutil.copytree(tiny_bundle("mini", precision=precision), tmp_path / "changed"))
        data = bundle / "text.onnx.data"
        content = bytearray(data.read_bytes())
        initializers = ir.load(bundle / "text.onnx").graph.initializers
        for name, change in changes.items():
            tensor = initializers[name].const_value
            assert isinstance(tensor, ir.ExternalTensor) and tensor.offset is not None and tensor.length is not None
            array = tensor.numpy()
            changed = np.ascontiguousarray(change(array.copy()), array.dtype)
            assert changed.shape == array.shape
            content[tensor.offset:tensor.offset + tensor.length] = changed.tobytes()
        data.write_bytes(content)
        manifest = read_manifest(bundle)
        record = FileRecord(len(content), sha256(content).hexdigest())
        write_manifest(bundle, replace(manifest, files=manifest.files | {"text.onnx.data": record}))
        return bundle

    return make


def swap_halves(rows: np.ndarray) -> np.ndarray:
    return np.concatenate(np.split(rows, 2)[::-1])


@pytest.mark.parametrize(("initializer", "change", "stage"), [
    ("model.embed_tokens.weight", lambda w: w[::-1], "embedding"),
    ("model.layers.0.self_attn.qkv_proj.weight", swap_halves, "layer 0 attention"),
    ("model.layers.0.input_layernorm.weight", lambda w: w * 1.01, "layer 0 attention"),
    ("model.layers.1.self_attn.o_proj.weight", lambda w: w.T, "layer 1 attention"),
    ("model.layers.1.mlp.gate_up_proj.weight", swap_halves, "layer 1 feed-forward"),
    ("rotary_cos", lambda table: table / 1.0801, "layer 0 attention"),
    ("rotary_sin", lambda table: -table, "layer 0 attention"),
    ("model.norm.weight", lambda w: w + 0.01, "head"),
])
def test_the_stage_that_differs_is_named(
    changed: Callable[..., Path], tiny_checkpoint: Callable[..., Path], initializer: str,
    change: Callable[[np.ndarray], np.ndarray], stage: str,
) -> None:
    bundle = changed("fp32", {initializer: change})
    verify(bundle)
    with pytest.raises(BundleError, match=f"{stage} differs from the checkpoint by"):
        verify(bundle, checkpoint=str(tiny_checkpoint("mini")))


@pytest.mark.parametrize(("initializer", "change", "stage"), [
    ("model.layers.1.mlp.gate_up_proj.weight.codes", swap_halves, "layer 1 feed-forward"),
    ("model.layers.0.self_attn.qkv_proj.weight.scales", lambda w: w * 2, "layer 0 attention"),
    ("model.layers.1.self_attn.o_proj.weight.codes", lambda w: (w << 4) | (w >> 4), "layer 1 attention"),
    ("model.layers.0.mlp.down_proj.weight.zero_points", lambda w: w ^ 0x44, "layer 0 feed-forward"),
])
def test_the_quantized_stage_that_differs_is_named(
    changed: Callable[..., Path], tiny_checkpoint: Callable[..., Path], initializer: str,
    change: Callable[[np.ndarray], np.ndarray], stage: str,
) -> None:
    with pytest.raises(BundleError, match=f"{stage} differs from the checkpoint by"):
        verify(changed("int4", {initializer: change}), checkpoint=str(tiny_checkpoint("mini")))


def test_a_loss_that_no_precision_explains_is_no_excuse(
    tiny_bundle: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle("mini", precision="int4"), tmp_path / "lossy"))
    manifest = read_manifest(bundle)
    name = "model.layers.1.mlp.down_proj.weight"
    report = tuple(replace(item, relative_error=0.9) if item.name == name else item for item in manifest.report)
    write_manifest(bundle, replace(manifest, report=report))
    with pytest.raises(BundleError, match=f"{name} lost 90.00% when it was stored as uint4"):
        verify(bundle, checkpoint=str(tiny_checkpoint("mini")))


def test_nan_is_found_without_a_checkpoint(changed: Callable[..., Path]) -> None:
    def poison(rows: np.ndarray) -> np.ndarray:
        rows[0] = np.nan
        return rows

    with pytest.raises(NonFiniteLogits, match="graph model computes nan"):
        verify(changed("fp32", {"model.layers.1.input_layernorm.weight": poison}))


@pytest.mark.parametrize("device", ["cpu", "npu"])
def test_nan_is_found_in_the_projector_of_recordings_beside_images(
    device: str, tiny_multimodal: Path, tiny_multimodal_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_multimodal_bundle("fp32")
    if device == "npu":
        folder = tmp_path / "npu"
        export(tiny_multimodal, folder, precision="fp32", device="npu", context=128, threads=1)
    path, cpu, manifest = folder / "speech.onnx", find("cpu"), read_manifest(folder)
    model = ir.load(path)
    bias = model.graph.initializers["speech.projector.vision.down.bias"]
    assert bias.const_value is not None
    bias.const_value = ir.tensor(np.full_like(bias.const_value.numpy(), np.nan), name=bias.name)
    poisoned = Graph(path, cpu, 1, model=ir.to_proto(model).SerializeToString())
    _try(Graph(path, cpu, 1), "speech", manifest, None)
    with pytest.raises(NonFiniteLogits, match=r"graph speech.* computes nan"):
        _try(poisoned, "speech", manifest, None)


def test_another_checkpoint_is_refused(
    tiny_bundle: Callable[..., Path], tiny_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match="has another shape"):
        verify(tiny_bundle("mini"), checkpoint=str(tiny_checkpoint("phi4")))


def test_tampered_files_are_named(tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle("mini"), tmp_path / "tampered"))
    names = sorted(read_manifest(bundle).files)
    for name in names:
        content = (bundle / name).read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        cases = ((bytes(flipped), "SHA-256 is"), (content[:-1], "bytes, the manifest says"), (None, "is missing"))
        for damaged, found in cases:
            (bundle / name).unlink()
            if damaged is not None:
                (bundle / name).write_bytes(damaged)
            with pytest.raises(HashMismatch, match=found) as caught:
                verify(bundle)
            assert f"{bundle / name}" in str(caught.value)
        (bundle / name).write_bytes(content)
    assert verify(bundle).files == len(names)


def test_a_checkpoint_is_no_bundle(tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ManifestError, match="looks like a checkpoint: run `edgephi export`"):
        verify(tiny_checkpoint("mini"))


def test_the_verb_says_what_it_found(
    tiny_bundle: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgephi", "verify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    bundle = Path(shutil.copytree(tiny_bundle("mini", precision="int4"), tmp_path / "bundle"))
    plain = run(bundle, "--checkpoint", tiny_checkpoint("mini"))
    assert (plain.returncode, plain.stdout) == (0, ""), plain.stderr
    assert "match their hashes" in plain.stderr and "6 stages agree with the checkpoint" in plain.stderr
    report = json.loads(run(bundle, "--checkpoint", tiny_checkpoint("mini"), "--json").stdout)
    assert [layer["name"] for layer in report["layers"]] == STAGES and report["unlisted"] == []
    assert report["bytes"] == sum(record.size for record in read_manifest(bundle).files.values())
    (bundle / "text.onnx.data").write_bytes(b"x")
    damaged = run(bundle)
    assert damaged.returncode == 1 and damaged.stderr.count("\n") == 1
    assert damaged.stderr.startswith(f"error: {bundle / 'text.onnx.data'} has 1 bytes, the manifest says ")

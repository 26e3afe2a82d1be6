"""`edgephi compile`: compiled forms come beside the ONNX form, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgephi import BundleError, ProviderUnavailable
from edgephi.export.cli import compile_graphs
from edgephi.export.cli import export as export_verb
from edgephi.export.compile import compile_bundle
from edgephi.export.pipeline import export
from edgephi.export.verify import verify
from edgephi.runtime.manifest import Manifest, read_manifest
from edgephi.runtime.providers import qnn

needs_compiler = pytest.mark.skipif(
    find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn, which holds the NPU's compiler, is not installed"
)


@pytest.fixture
def npu_bundle(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    export(tiny_checkpoint("mini"), tmp_path / "npu", device="npu", context=128, threads=1)
    return tmp_path / "npu"


def _weights(manifest: Manifest, generation: str) -> int:
    """Bytes of the compiled weights for a generation."""
    (form,) = [form for form in manifest.compiled if form.generation == generation]
    return sum(manifest.files[file].size for file in {file for graph in form.graphs.values() for file in graph.data})


def test_an_unknown_generation_is_refused_before_anything_is_written(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ProviderUnavailable, match=r"has no generation 'x9': choose among .*x2-elite \(SC8480XP"):
        export(tiny_checkpoint("mini"), tmp_path / "npu", device="npu", soc=["x-elite", "x9"], threads=1)
    with pytest.raises(ProviderUnavailable, match="'cpu' has no generation 'x-elite'"):
        export(tiny_checkpoint("mini"), tmp_path / "cpu", soc=["x-elite"], threads=1)
    assert not list(tmp_path.iterdir())


def test_without_its_compiler_the_next_step_is_named(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if qnn.PROVIDER.ort_name in ort.get_available_providers():
        pytest.skip("the compiler is loaded in this process")
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(ProviderUnavailable, match="pip install onnxruntime-qnn"):
        export(tiny_checkpoint("mini"), tmp_path / "npu", device="npu", soc=["x-elite"], threads=1)
    assert not list(tmp_path.iterdir())


def test_graphs_of_free_shapes_are_not_compiled(tiny_bundle: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="is for device 'cpu', whose graphs have no fixed shapes"):
        compile_bundle(tiny_bundle("mini"), ["x-elite"])


@needs_compiler
def test_an_export_compiles_for_generations_and_keeps_the_onnx_form(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    stages: list[str] = []
    report = export(
        tiny_checkpoint("mini"), tmp_path / "npu", device="npu", context=128, threads=1, soc=["X-Elite", "SC8480XP"],
        progress=lambda stage, done, total: stages.append(stage),
    )
    manifest = read_manifest(tmp_path / "npu")
    assert [form.generation for form in manifest.compiled] == ["x-elite", "x2-elite"]
    assert stages[-4:] == [f"{name} for {soc}" for soc in ("x-elite", "x2-elite") for name in ("text", "text-step")]
    for form, mark in zip(manifest.compiled, ("73:60", "81:88"), strict=True):
        assert form.device == "qnn" and form.shared_weights and f":{mark}:" in form.compatibility
        assert form.compiler.startswith("2.") and form.compatibility.split(":")[2] in form.compiler
        assert form.graphs.keys() == {"text", "text-step"}
        assert len({graph.data for graph in form.graphs.values()}) == 1
        for graph in form.graphs.values():
            assert [node.op_type for node in ir.load(tmp_path / "npu" / graph.file).graph] == ["EPContext"]
    assert set(manifest.graphs) == {"text", "text-step", "embedding"} and report.files.keys() == manifest.files.keys()
    assert verify(tmp_path / "npu", threads=1).unlisted == ()


@needs_compiler
def test_shared_weights_are_stored_once(npu_bundle: Path) -> None:
    together = _weights(compile_bundle(npu_bundle, ["x-elite"]), "x-elite")
    before = read_manifest(npu_bundle)
    assert compile_bundle(npu_bundle, ["x-elite"]) == before  # the same work is not done again
    apart = _weights(compile_bundle(npu_bundle, ["x-elite"], share_weights=False), "x-elite")
    assert together < 0.7 * apart
    left = {path.name for path in npu_bundle.iterdir()} - read_manifest(npu_bundle).files.keys()
    assert left == {"edgephi.json"}  # what was replaced is gone


@needs_compiler
def test_what_the_compiler_does_not_take_is_an_error_and_the_bundle_stays_whole(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = dataclasses.replace(qnn.PROVIDER, lowerings=("separate_embedding", "static_shapes", "full_rotary"))
    monkeypatch.setattr(qnn, "PROVIDER", fused)
    with pytest.raises(ProviderUnavailable, match="does not take SkipSimplifiedLayerNormalization on CPUExecution"):
        export(tiny_checkpoint("mini"), tmp_path / "npu", device="npu", context=128, threads=1, soc=["x-elite"])
    assert read_manifest(tmp_path / "npu").compiled == ()
    assert verify(tmp_path / "npu", threads=1).unlisted == () and len(list(tmp_path.iterdir())) == 1


@needs_compiler
def test_the_verb_says_what_it_made(npu_bundle: Path) -> None:
    """In a process of its own: the compiler's library prints to stdout, which must not reach the JSON."""
    command = [sys.executable, "-m", "edgephi", "compile", str(npu_bundle), "--soc", "8-gen-3,8-elite", "--json"]
    made = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert [form["generation"] for form in made] == ["8-elite", "8-gen-3"] and all(form["bytes"] > 0 for form in made)


@pytest.mark.parametrize("verb", [export_verb, compile_graphs], ids=["export", "compile"])
def test_both_verbs_take_several_names(verb: click.Command) -> None:
    (option,) = [option for option in verb.params if option.name == "soc"]
    context = click.Context(verb)
    assert option.process_value(context, "x-elite, SC8480XP,") == ("x-elite", "SC8480XP")
    with pytest.raises(click.BadParameter, match="' ,' names nothing: give NAME or NAME,NAME"):
        option.process_value(context, " ,")

"""Graphs that were compiled ahead of time: a device opens those of its own generation, and they say what the CPU says.

What is executed runs in the NPU's simulator, where onnxruntime-qnn is installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgephi
from edgephi import ProviderUnavailable
from edgephi.benchmarks import deepened
from edgephi.demo.tasks import held_out
from edgephi.export.compile import compile_bundle
from edgephi.export.pipeline import export
from edgephi.runtime import compiled
from edgephi.runtime.graphs import Interrupt
from edgephi.runtime.manifest import Compiled, Graph, Manifest, read_manifest
from edgephi.runtime.providers import find
from edgephi.runtime.providers.provider import Provider

from .simulator import apart, needs_simulator

CONTEXT = 256
# Generation → lengths of prompts; `python -m edgephi.benchmarks npu` runs all of them for both, and with 32 layers.
PROMPTS = {"x-elite": (1, 63, 64, 65, 200), "x2-elite": (65,)}
# The CPU rounds activations to int8 block by block, the NPU computes in float16: 2.9 % was seen between the two.
APART = 5e-2
STATED = "v2:6:2.51.0:5.51.0:{}:0:0"


def _form(generation: str, **changes: object) -> Compiled:
    made_for = find("qnn").find_generation(generation)
    assert made_for is not None
    graphs = {name: Graph(f"{name}.{generation}.onnx", (f"{generation}.bin",)) for name in ("text", "text-step")}
    form = Compiled("qnn", generation, "2.51.0.1", STATED.format(made_for.mark), True, graphs)
    return dataclasses.replace(form, **changes)  # type: ignore[arg-type]  # names of fields


@pytest.fixture
def manifest(tiny_bundle: Callable[..., Path]) -> Manifest:
    return read_manifest(tiny_bundle("mini"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Provider]:
    """Version → the NPU of that version, which takes its own and all older ones, as Qualcomm's provider says."""

    def make(version: int) -> Provider:
        def takes(provider: Provider, compatibility: str) -> bool:
            return int(compatibility.split(":")[4]) <= version

        monkeypatch.setattr(compiled, "takes", takes)
        monkeypatch.setattr(compiled, "compiler_version", lambda provider: "2.51.0")
        return find("qnn")

    return make


@pytest.mark.parametrize(("version", "generation"), [(73, "x-elite"), (79, "8-elite"), (81, "x2-elite")])
def test_a_device_opens_what_was_compiled_for_its_generation(
    version: int, generation: str, manifest: Manifest, device: Callable[[int], Provider]
) -> None:
    forms = tuple(_form(name) for name in ("8-elite", "x-elite", "x2-elite"))
    form = compiled.choose(dataclasses.replace(manifest, compiled=forms), device(version))
    assert form.graphs["text"].file == f"text.{generation}.onnx"
    assert form.note == f"compiled ahead of time for {generation}"
    assert compiled.SHARE in form.provider.session_config  # both graphs find the one set of weights


@pytest.mark.parametrize(
    ("version", "forms", "reason"),
    [
        (75, ["x-elite"], "x-elite: for another generation"),  # older: its provider would open it without a word
        (75, ["x2-elite"], "x2-elite: for another generation"),
        (75, ["x-elite", "x2-elite"], "x-elite: for another generation; x2-elite: for another generation"),
        (75, [], "the bundle has no compiled form"),
    ],
)
def test_what_is_for_another_generation_is_made_anew_and_said(
    version: int, forms: list[str], reason: str, manifest: Manifest, device: Callable[[int], Provider]
) -> None:
    changed = dataclasses.replace(manifest, compiled=tuple(map(_form, forms)))
    form = compiled.choose(changed, device(version))
    assert not form.graphs and form.provider == find("qnn")
    assert form.note is not None and f"while it was loaded, from the ONNX form ({reason})" in form.note


@pytest.mark.parametrize(
    ("compiler", "opened"), [("2.51.0.9", True), ("2.9.3", True), ("2.52.0", False), ("3.0", False)]
)
def test_what_a_newer_compiler_made_is_not_opened(
    compiler: str, opened: bool, manifest: Manifest, device: Callable[[int], Provider]
) -> None:
    form = compiled.choose(
        dataclasses.replace(manifest, compiled=(_form("x-elite", compiler=compiler),)), device(73)
    )
    assert bool(form.graphs) == opened
    assert opened or f"x-elite: made by compiler {compiler}, here is 2.51.0" in str(form.note)


def test_devices_without_generations_open_the_onnx_form(manifest: Manifest) -> None:
    changed = dataclasses.replace(manifest, compiled=(_form("x-elite"),))
    assert all(compiled.choose(changed, find(name)) == compiled.Form(find(name)) for name in ("cpu", "openvino"))


def test_a_generation_is_named_behind_the_device() -> None:
    named = find("qnn_simulator:sc8480xp")
    assert named.generation is not None and named.generation.name == "x2-elite"
    assert dict(named.options)["htp_arch"] == "81" and named.name == "qnn_simulator"
    with pytest.raises(ProviderUnavailable, match=r"'qnn' has no generation 'x9': choose among 8-gen-2 \(SM8550"):
        find("qnn:x9")
    with pytest.raises(ProviderUnavailable, match="'cpu' has no generation 'x-elite': its graphs are not compiled"):
        find("cpu:x-elite")


@dataclass(frozen=True)
class Trio:
    """Sessions over the bundle for the CPU and over what was compiled for two generations of the NPU."""

    plain: edgephi.Session
    simulated: dict[str, edgephi.Session]
    folder: Path


@pytest.fixture(scope="module")
def trio(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """The demo's checkpoint knows its tasks, so its tokens are no draws between equals."""
    folder = tmp_path_factory.mktemp("compiled") / "bundle"
    with as_file(files("edgephi.demo") / "checkpoint") as checkpoint:
        export(checkpoint, folder, device="npu", context=CONTEXT, threads=1)
    compile_bundle(folder, list(PROMPTS), share_weights=False)
    plain = edgephi.load(demo_bundle, prefix_cache=False, threads=1)
    simulated = {name: edgephi.load(folder, device=f"qnn_simulator:{name}", prefix_cache=False) for name in PROMPTS}
    yield Trio(plain, simulated, folder)
    for session in (plain, *simulated.values()):
        session.close()


def _prompt(session: edgephi.Session, length: int, seed: int = 0) -> list[int]:
    """The last tokens of some questions."""
    questions = [example for task in ("sum", "sort", "copy") for example in held_out(task, 6, seed=seed)]
    ids = [number for example in questions for number in session.encode(list(example.turns))]
    assert len(ids) >= length
    return ids[-length:]


def _advance(session: edgephi.Session, ids: list[int]) -> np.ndarray:
    return session._model.decoder.advance(ids, Interrupt())[0].copy()


@needs_simulator
@pytest.mark.parametrize("generation", PROMPTS)
def test_compiled_graphs_say_what_the_cpu_says(generation: str, trio: Trio) -> None:
    session = trio.simulated[generation]
    assert session.device_reason == f"asked for; compiled ahead of time for {generation}"
    assert session.left_to_cpu == {}
    for length in PROMPTS[generation]:
        ids = _prompt(trio.plain, length)
        assert apart(_advance(session, ids), _advance(trio.plain, ids)) < APART, length
        given = session.generate(ids, max_tokens=4, temperature=0)
        assert given.token_ids == trio.plain.generate(ids, max_tokens=4, temperature=0).token_ids, length


@needs_simulator
def test_turns_go_on_and_rewind_in_compiled_graphs(trio: Trio) -> None:
    session, first = trio.simulated["x2-elite"], _prompt(trio.plain, 70)
    longer, other = [*first, *_prompt(trio.plain, 5, 1)], [*first[:40], *_prompt(trio.plain, 66, 2)]
    for ids, reused in ((first, 0), (longer, 70), (other, 40), (first, 40)):
        logits, work = session._model.decoder.advance(ids, Interrupt())
        assert work.reused >= reused - 1
        assert apart(logits, _advance(trio.plain, ids)) < APART


@needs_simulator
def test_another_generation_runs_from_the_onnx_form(trio: Trio) -> None:
    with edgephi.load(trio.folder, device="qnn_simulator:8-elite", prefix_cache=False) as session:
        assert "x-elite: for another generation, this is 8-elite" in session.device_reason
        ids = _prompt(trio.plain, 5)
        assert apart(_advance(session, ids), _advance(trio.plain, ids)) < APART


@needs_simulator
def test_a_damaged_compiled_graph_is_an_error(trio: Trio, tmp_path: Path) -> None:
    manifest = read_manifest(trio.folder)
    form = next(form for form in manifest.compiled if form.generation == "x-elite")
    (weights,) = form.graphs["text"].data
    for path in trio.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((tmp_path / weights).read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / weights).write_bytes(damaged)
    with pytest.raises(edgephi.HashMismatch, match=weights):
        edgephi.load(tmp_path, device="qnn_simulator:x-elite")


@needs_simulator
def test_thirty_two_layers_stay_one_piece(tmp_path: Path) -> None:
    """As many layers as Phi-4-mini has, each of the demo's width: more is slow in the simulator."""
    deepened.write(tmp_path / "deep", 32)
    export(tmp_path / "deep", tmp_path / "cpu", threads=1, method="round_to_nearest")
    export(tmp_path / "deep", tmp_path / "npu", device="npu", context=128, threads=1, method="round_to_nearest")
    (form,) = compile_bundle(tmp_path / "npu", ["x2-elite"], share_weights=False).compiled
    for graph in form.graphs.values():
        assert [node.op_type for node in ir.load(tmp_path / "npu" / graph.file).graph] == ["EPContext"]
    simulated = edgephi.load(tmp_path / "npu", device="qnn_simulator:x2-elite", prefix_cache=False)
    with edgephi.load(tmp_path / "cpu", prefix_cache=False, threads=1) as plain, simulated:
        assert simulated.left_to_cpu == {}
        ids = _prompt(plain, 40)
        given = simulated.generate(ids, max_tokens=2, temperature=0)
        assert given.token_ids == plain.generate(ids, max_tokens=2, temperature=0).token_ids

"""The probe's decoder does what an exported one does; what is foreseen from its times follows the arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgephi import BundleError
from edgephi.runtime import probe
from edgephi.runtime.manifest import Manifest, read_manifest
from edgephi.runtime.probe_graph import ProbeShape, Stored, build
from edgephi.runtime.providers import find

CPU = find("cpu")
FOLDED = {"Cast", "Constant"}  # before ONNX Runtime has folded them


@pytest.fixture
def manifest(tiny_bundle: Callable[..., Path]) -> Manifest:
    return read_manifest(tiny_bundle("mini", precision="int4"))


def operators(graph: ir.Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in graph:
        if node.op_type not in FOLDED:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


@pytest.mark.parametrize(("precision", "linear", "head"), [
    ("int4", Stored(4, 64, True), Stored(8, 64)), ("fp32", Stored(32), Stored(32)),
])
def test_it_has_the_nodes_and_the_inputs_of_an_exported_decoder(
    tiny_bundle: Callable[..., Path], tmp_path: Path, precision: str, linear: Stored, head: Stored
) -> None:
    folder = tiny_bundle("mini", precision=precision)
    text = read_manifest(folder).text
    (tmp_path / "probe.onnx").write_bytes(build(ProbeShape(text, 256, linear, head, 4), "zeros")[0])
    own, exported = (ir.load(path).graph for path in (tmp_path / "probe.onnx", folder / "text.onnx"))
    ours, theirs = operators(own), operators(exported)
    # ids are looked up in a narrow table here, which a Mul makes wide; the first norm adds a row to itself there
    lookup = "GatherBlockQuantized" if precision == "int4" else "Gather"
    theirs[lookup] -= 1
    theirs["Gather"] = theirs.get("Gather", 0) + 1
    theirs["Mul"] += 1
    theirs["SkipSimplifiedLayerNormalization"] += theirs.pop("SimplifiedLayerNormalization")
    assert ours == {name: count for name, count in theirs.items() if count}
    assert {value.name for value in own.inputs} == {value.name for value in exported.inputs}
    assert {value.name for value in own.outputs} == {value.name for value in exported.outputs}


def test_over_an_int8_cache_it_attends_as_an_exported_decoder_does_for_a_token(
    tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bundle("mini", precision="int4")
    shape = ProbeShape(read_manifest(folder).text, 256, Stored(4, 64, True), Stored(8, 64), 4, "int8")
    (tmp_path / "probe.onnx").write_bytes(build(shape, "zeros")[0])
    own, exported = (ir.load(path).graph for path in (tmp_path / "probe.onnx", folder / "text-int8-cache.onnx"))
    ours = next(node for node in own if node.op_type == "GroupQueryAttention")
    branches = next(node for node in exported if node.op_type == "If").attributes
    theirs = next(iter(branches["else_branch"].as_graph()))
    assert theirs.op_type == "GroupQueryAttention"
    said, expected = ({name: each.value for name, each in node.attributes.items()} for node in (ours, theirs))
    assert said == {name: value for name, value in expected.items() if name != "rotary_interleaved"}
    assert not expected["rotary_interleaved"]  # as where nothing is said
    assert [value is None for value in ours.inputs] == [value is None for value in theirs.inputs]
    (found, wanted) = (
        {value.name: value.dtype for value in (*graph.inputs, *graph.outputs)} for graph in (own, exported)
    )
    assert wanted.pop("cache_scales") == ir.DataType.FLOAT and found == wanted


def test_over_an_int8_cache_tokens_are_timed_there_and_prompts_over_float32(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {np.dtype(np.int8): 1.0, np.dtype(np.float32): 1000.0}
    monkeypatch.setattr(probe, "_step", lambda decoder, seen, clock: seen * seconds[decoder.cache.shape.dtype])
    monkeypatch.setattr(probe, "_chunk", lambda decoder, seen, clock: seconds[decoder.cache.shape.dtype])
    monkeypatch.setattr(probe, "FAR", 201)
    tokens, floats = (probe.measure(manifest, CPU, 1, kv=kv) for kv in ("int8", "float"))
    assert (tokens.step, tokens.step_per_position) == (1.0, 200 / 201)
    assert (floats.step, floats.step_per_position) == (1000.0, 200000 / 201)
    assert tokens.row == pytest.approx(999 / probe.ROWS)


@pytest.mark.parametrize("kv", ["float", "int8"])
def test_a_bundle_is_timed_without_being_loaded(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv: str
) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    monkeypatch.setattr(probe, "FAR", 200)
    speed = probe.measure(manifest, CPU, 1, kv=kv)
    assert 0 < speed.step < 1 and 0 < speed.first_token(100) < 10
    assert speed.decode_rate(1000) <= speed.decode_rate(1)
    assert list(tmp_path.iterdir()) == []


def test_times_are_those_of_the_clock_that_is_given(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second at each look: a token takes a quarter of one, a chunk takes one."""
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    monkeypatch.setattr(probe, "FAR", 200)
    ticks = itertools.count()
    speed = probe.measure(manifest, CPU, 1, lambda: float(next(ticks)))
    assert speed.step == pytest.approx(1 / probe.STEPS) and speed.step_per_position == 0
    assert speed.row == pytest.approx((1 - 1 / probe.STEPS) / probe.ROWS) and speed.row_per_position == 0


def test_further_layers_cost_what_the_measured_ones_do() -> None:
    one, three = probe._Times(1.0, 2.0, 3.0, 4.0), probe._Times(1.2, 2.4, 3.6, 3.9)
    whole = one.extended(three, 2, 39)
    assert vars(whole) == pytest.approx({"step": 4.9, "far_step": 9.8, "chunk": 14.7, "far_chunk": 4.0})


def test_a_prompt_costs_its_rows_and_what_each_looks_back_at() -> None:
    speed = probe.Speed(step=0.5, step_per_position=0.001, row=0.01, row_per_position=0.0001, heads=4, threads=1)
    assert speed.decode_rate(500) == pytest.approx(1.0)
    assert speed.first_token(100) == pytest.approx(0.5 + 100 * (0.01 + 100 * 0.0001))
    # two steps of prefill: 512 rows that look at 512 positions, then 88 that look at 600
    assert speed.first_token(600) == pytest.approx(0.5 + 512 * (0.01 + 0.0512) + 88 * (0.01 + 0.06))


def test_a_bundle_without_a_report_cannot_be_foreseen(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="the manifest has no report of the decoder's weights"):
        probe.measure(replace(manifest, report=()), CPU, 1)

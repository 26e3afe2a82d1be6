"""Graphs of fixed shapes: a context processor and a token iterator over one cache say what the CPU's one graph says.

They run on the CPU here, so only rounding differs from the bundle for the CPU; and in the NPU's simulator where
onnxruntime-qnn is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import edgephi
from edgephi import BundleError, ContextOverflow, RequestError
from edgephi.demo.tasks import held_out
from edgephi.export.pipeline import export
from edgephi.export.verify import verify
from edgephi.runtime.errors import ProviderUnavailable
from edgephi.runtime.graphs import Graph, Interrupt
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.providers import find

from .simulator import apart, needs_simulator

CONTEXT, WINDOW = 512, 64
PROMPTS = (1, 63, 64, 65, 200)
# Both round activations to int8 block by block; rows in another order and padded windows round some of them elsewhere.
APART = 3e-2
# float16 arithmetic against exact products; 0.12 to 0.39 % were seen.
SIMULATED_APART = 1e-2


@dataclass(frozen=True)
class Pair:
    plain: edgephi.Session
    fixed: edgephi.Session
    checkpoint: Path
    folder: Path


@pytest.fixture(scope="module", params=["mini", "phi4"])
def pair(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tiny_bundle: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    """Sessions over a bundle for the CPU and one for an NPU: partial rotary and tied weights, or neither."""
    folder, checkpoint = tmp_path_factory.mktemp("npu") / "bundle", tiny_checkpoint(request.param)
    export(checkpoint, folder, precision="int8", device="npu", context=CONTEXT, threads=1)
    plain = edgephi.load(tiny_bundle(request.param, precision="int8"), prefix_cache=False, threads=1)
    fixed = edgephi.load(folder, prefix_cache=False, threads=1)
    yield Pair(plain, fixed, checkpoint, folder)
    plain.close()
    fixed.close()


def _prompt(length: int, seed: int = 0) -> list[int]:
    numbers: list[int] = np.random.default_rng([length, seed]).integers(5, 380, length).tolist()
    return numbers


def _advance(session: edgephi.Session, ids: list[int]) -> np.ndarray:
    """Logits behind the last position, by way of the prefill."""
    return session._model.decoder.advance(ids, Interrupt())[0].copy()


def test_prompts_of_any_length_give_the_same_tokens(pair: Pair) -> None:
    assert pair.fixed.context == CONTEXT and pair.fixed.loaded == ("text", "embedding")
    for length in PROMPTS:
        wanted = pair.plain.generate(_prompt(length), max_tokens=8, temperature=0)
        given = pair.fixed.generate(_prompt(length), max_tokens=8, temperature=0)
        assert given.token_ids == wanted.token_ids, length
        assert apart(_advance(pair.fixed, _prompt(length)), _advance(pair.plain, _prompt(length))) < APART


def test_turns_go_on_behind_what_is_cached_and_rewind_to_it(pair: Pair) -> None:
    first = _prompt(70)
    longer = [*first, *_prompt(50, 1)]
    other = [*first[:40], *_prompt(90, 2)]
    for ids, reused in ((first, 0), (longer, 70), (other, 40), (first, 40), (longer[:100], 70)):
        logits, work = pair.fixed._model.decoder.advance(ids, Interrupt())
        assert work.reused >= reused - 1
        assert apart(logits, _advance(pair.plain, ids)) < APART
    again = pair.fixed.snapshot()
    pair.fixed.clear()
    pair.fixed.restore(again)
    assert apart(_advance(pair.fixed, longer[:101]), _advance(pair.plain, longer[:101])) < APART


def test_the_last_positions_of_the_context_go_one_by_one(pair: Pair) -> None:
    full = _prompt(CONTEXT)
    assert apart(_advance(pair.fixed, full[: CONTEXT - 20]), _advance(pair.plain, full[: CONTEXT - 20])) < APART
    assert apart(_advance(pair.fixed, full), _advance(pair.plain, full)) < APART  # 20 more: no room for a window
    with pytest.raises(ContextOverflow, match=f"513 tokens, the context of {CONTEXT} must hold it"):
        pair.fixed.generate([*full, 5], max_tokens=1)


def test_logits_of_every_position_are_those_of_the_cpu(pair: Pair) -> None:
    assert apart(pair.fixed.logits(_prompt(70)), pair.plain.logits(_prompt(70))) < APART


def test_both_graphs_share_every_byte_of_their_weights(pair: Pair) -> None:
    manifest = read_manifest(pair.folder)
    assert set(manifest.graphs) == {"text", "text-step", "embedding"} and manifest.device == "qnn"
    stored = [
        {name: (tensor.location, tensor.offset) for name, value in ir.load(pair.folder / graph.file).graph.initializers
         .items() if isinstance(tensor := value.const_value, ir.ExternalTensor)}
        for name, graph in manifest.graphs.items() if name.startswith("text")
    ]
    assert stored[0] == stored[1] and len(stored[0]) > 10
    whole = sum(record.bytes_after for record in manifest.report)
    assert manifest.files["text.onnx.data"].size < 1.2 * whole + 2 * 4 * CONTEXT * manifest.text.head_dim


def test_verify_runs_graphs_of_fixed_shapes(pair: Pair) -> None:
    assert verify(pair.folder, threads=1).graphs == ("embedding", "text", "text-step")
    with pytest.raises(RequestError, match="fixed shapes, whose layers are not compared"):
        verify(pair.folder, checkpoint=str(pair.checkpoint), threads=1)


def test_an_npu_that_is_not_there_is_refused(pair: Pair) -> None:
    with pytest.raises(ProviderUnavailable, match=r"no npu of this machine .*qnn: .*pip install onnxruntime-qnn"):
        edgephi.load(pair.folder, device="npu")


def test_a_bundle_without_its_look_up_says_so(pair: Pair, tmp_path: Path) -> None:
    import json

    for file in pair.folder.iterdir():
        os.link(file, tmp_path / file.name)
    manifest = json.loads((tmp_path / "edgephi.json").read_text())
    del manifest["graphs"]["embedding"]
    (tmp_path / "edgephi.json").unlink()
    (tmp_path / "edgephi.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        edgephi.load(tmp_path)


@needs_simulator
def test_every_node_runs_on_the_simulated_npu_to_its_precision(pair: Pair) -> None:
    simulator, cpu = find("qnn_simulator"), find("cpu")
    random = np.random.default_rng(0)
    for name, window in (("text", WINDOW), ("text-step", 1)):
        path = pair.folder / f"{name}.onnx"
        model = ir.load(path)
        for node in model.graph:
            if node.op_type == "MatMulNBits":
                node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
        exact, simulated = Graph(path, cpu, 1, model=ir.to_proto(model).SerializeToString()), Graph(path, simulator, 1)
        session = simulated._session
        assert session is not None and simulated.left_to_cpu == {}
        (only,) = session.get_provider_graph_assignment_info()  # one part: nothing crosses over within a step
        assert only.ep_name == simulator.ort_name
        for seen in (0, 1, 100):
            feeds = {
                key: random.normal(0, 0.5, [int(size) for size in tensor.shape]).astype(tensor.dtype)
                for key, tensor in exact.inputs.items()
            }
            for key in feeds:
                if key.startswith("past_key_values."):
                    feeds[key][:, :, seen:] = 0
            feeds["seqlens_k"] = np.array([seen + window - 1], np.int32)
            feeds["logits_rows"] = np.array([window - 1], np.int32)
            wanted, given = exact.run(feeds), simulated.run(feeds)
            for key, value in wanted.items():
                assert apart(given[key], value) < SIMULATED_APART, (name, seen, key)


@needs_simulator
def test_the_simulated_npu_answers_like_the_cpu(demo_bundle: Path, tmp_path: Path) -> None:
    """The demo's checkpoint knows its tasks, so its tokens are no draws between equals."""
    with as_file(files("edgephi.demo") / "checkpoint") as checkpoint:
        export(checkpoint, tmp_path / "npu", device="npu", context=256, threads=1)
    simulated = edgephi.load(tmp_path / "npu", device="qnn_simulator", prefix_cache=False)
    with edgephi.load(demo_bundle, prefix_cache=False) as plain, simulated:
        assert simulated.device == "qnn_simulator" and simulated.left_to_cpu == {}
        for task in ("sum", "sort", "copy"):  # few and short: a step takes a third of a second
            (example,) = held_out(task, 1, seed=1)
            wanted = plain.chat(list(example.turns), max_tokens=10, temperature=0)
            assert simulated.chat(list(example.turns), max_tokens=10, temperature=0).token_ids == wanted.token_ids

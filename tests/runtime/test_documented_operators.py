"""Graphs for GPUs that are not here: only operators and types that the documentation of a provider lists.

The lists lie in documented_operators.json with their source. Providers whose documentation names no operators of ONNX
Runtime's own domain (OpenVINO, those of Windows ML) cannot be checked this way; OpenVINO is executed in test_openvino.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from edgephi.export.pipeline import export
from edgephi.runtime.providers import find

DOCUMENTED: dict[str, Any] = json.loads(Path(__file__).with_name("documented_operators.json").read_text())
DEVICES = [name for name in DOCUMENTED if name != "source"]
# The operator set of the lists, and of the graphs.
OPSET = 21


@pytest.fixture(scope="module", params=["int4", "fp16"])
def decoder(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> ir.Model:
    """The decoder of a bundle for a GPU."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    export(tiny_checkpoint("mini"), folder, precision=request.param, device="gpu", threads=1)
    return ir.load(folder / "text.onnx")


def _undocumented(model: ir.Model, device: str) -> Iterator[str]:
    record, listed = find(device), DOCUMENTED[device]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in record.leaves_to_cpu:
            continue
        types = listed.get(node.op_type, [])
        # a look-up is listed by the type of its codes, a condition by its own
        if record.activation_dtype not in types and node.op_type not in ("GatherBlockQuantized", "If", "And", "Not"):
            yield f"{node.op_type} in {record.activation_dtype}"
        elif not types:
            yield node.op_type


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_documents_what_its_graphs_hold(decoder: ir.Model, device: str) -> None:
    assert decoder.graph.opset_imports == {"": OPSET, "com.microsoft": 1}
    assert sorted(set(_undocumented(decoder, device))) == []


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_device_computes_in_its_attention_has(device: str) -> None:
    """A record says no dtype for graphs that the documented attention does not take."""
    assert set(find(device).runs) <= set(
        {"float": "float32"}.get(name, name) for name in DOCUMENTED[device]["GroupQueryAttention"]
    )


def test_an_operator_that_is_not_listed_would_be_seen(decoder: ir.Model) -> None:
    strange = ir.node("GatherBlockQuantized", [decoder.graph.inputs[0]], domain="com.microsoft")
    odd = ir.node("NoSuchOperator", [decoder.graph.inputs[0]])
    model = ir.Model(ir.Graph([], [], nodes=[strange, odd], name="odd"), ir_version=10)
    assert sorted(_undocumented(model, "cuda")) == ["NoSuchOperator in float16"]

"""`verify` runs every graph of a multimodal bundle and compares its decoder and its embedding with the checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgephi import NonFiniteLogits
from edgephi.export.verify import verify
from edgephi.runtime.manifest import FileRecord, read_manifest, write_manifest


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_every_graph_runs_and_every_stage_agrees(
    tiny_multimodal: Path, tiny_multimodal_bundle: Callable[..., Path], precision: str
) -> None:
    result = verify(tiny_multimodal_bundle(precision=precision), checkpoint=str(tiny_multimodal))
    assert {"text", "text-media", "text-vision", "text-speech", "model", "embedding", "vision", "speech"} <= {
        *result.graphs
    }
    assert [stage.name for stage in result.layers] == [
        "embedding", "layer 0 attention", "layer 0 feed-forward", "layer 1 attention", "layer 1 feed-forward", "head",
    ]
    assert all(stage.error <= stage.allowed for stage in result.layers)
    assert not result.unlisted


@pytest.mark.parametrize(("graph", "initializer"), [
    ("vision", "vision.layers.1.mlp.fc2.bias"), ("speech", "speech.projector.speech.down.bias"),
    ("text-speech", "model.layers.0.mlp.down_proj.lora_B.speech.weight"),
])
def test_a_graph_that_computes_nan_is_named(
    tiny_multimodal_bundle: Callable[..., Path], tmp_path: Path, graph: str, initializer: str
) -> None:
    bundle = Path(shutil.copytree(tiny_multimodal_bundle(precision="fp32"), tmp_path / "changed"))
    tensor = ir.load(bundle / f"{graph}.onnx").graph.initializers[initializer].const_value
    assert isinstance(tensor, ir.ExternalTensor) and tensor.offset is not None and tensor.length is not None
    data = bundle / tensor.location
    content = bytearray(data.read_bytes())
    content[tensor.offset:tensor.offset + tensor.length] = np.full(tensor.length // 4, np.nan, "<f4").tobytes()
    data.write_bytes(content)
    manifest = read_manifest(bundle)
    record = FileRecord(len(content), sha256(content).hexdigest())
    write_manifest(bundle, replace(manifest, files=manifest.files | {data.name: record}))
    with pytest.raises(NonFiniteLogits, match=f"graph {graph} computes nan"):
        verify(bundle)

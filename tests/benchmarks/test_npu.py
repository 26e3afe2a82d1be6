"""What is noted of compiling for an NPU, and the checkpoint with many layers that it is shown on."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

from edgephi import RequestError
from edgephi.benchmarks import deepened, npu

MEASURED = npu.Compiled(
    "some", 32, "4 heads of 64 over 2, 256 wide", 256, "x-elite", "2.51.0.1", {"text": 1, "text-step": 1}, 11_000_000,
    (npu.Compilation(True, 12_000_000, 4.0, 2_000_000_000), npu.Compilation(False, 23_000_000, 5.0, 3_000_000_000)),
    (npu.Prompted(65, 0, 4, 4, 0.0123),), "2026-01-01", {"processor": "one"}, {"python": "3.11"},
)


def test_results_are_merged_by_checkpoint_and_generation(tmp_path: Path) -> None:
    npu.note([MEASURED], tmp_path)
    npu.note([dataclasses.replace(MEASURED, generation="x2-elite")], tmp_path)
    npu.note([dataclasses.replace(MEASURED, onnx_bytes=10_000_000)], tmp_path)
    kept = json.loads((tmp_path / npu.RESULTS_NAME).read_text())
    assert [(item["generation"], item["onnx_bytes"]) for item in kept] == [("x-elite", 10**7), ("x2-elite", 11 * 10**6)]
    table = (tmp_path / npu.TABLE_NAME).read_text()
    assert "| x-elite | 1, 1 | 10.0 MB | 12.0 MB | 23.0 MB | 4 s, 5 s | 3.0 GB |" in table
    assert table.count("| 65 | 0 | 4 of 4 | 1.23% |") == 2
    (tmp_path / npu.RESULTS_NAME).write_text("[{}]")
    with pytest.raises(RequestError, match=r"npu\.json is not a list of compiled checkpoints"):
        npu.note([MEASURED], tmp_path)


def test_a_deepened_checkpoint_has_every_trained_layer_once_at_full_strength(tmp_path: Path) -> None:
    deepened.write(tmp_path / "deep", 8)
    made = deepened._read(tmp_path / "deep" / deepened.WEIGHTS)
    with as_file(files("edgephi.demo") / "checkpoint") as shipped:
        whole = deepened._read(shipped / deepened.WEIGHTS)
    own = {name: bits for name, bits in whole.items() if deepened.ENCODERS not in name}
    assert json.loads((tmp_path / "deep" / deepened.CONFIG).read_text())["num_hidden_layers"] == 8
    parts = [[made[f"model.layers.{layer}.{part}"] for part in deepened.ADDED] for layer in range(8)]
    for layer in range(5):
        wanted = [own[f"model.layers.{layer}.{part}"] for part in deepened.ADDED]
        same = [
            all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True)) for found in parts
        ]
        assert same.count(True) == 1
    assert len(made) == len(own) + 3 * sum(name.startswith("model.layers.0.") for name in own)
    with pytest.raises(RequestError, match="the demo has 5 layers, 4 were asked for"):
        deepened.write(tmp_path / "shallow", 4)

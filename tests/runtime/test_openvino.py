"""OpenVINO for real, on its CPU device: what its NPU and GPU take their graphs through, but for the chip.

Needs an environment of its own, as onnxruntime-openvino is a build of ONNX Runtime in the place of the common one:
`pip install onnxruntime-openvino` there, then these tests. The graphs are those for Intel's NPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import edgephi
from edgephi.export.pipeline import export
from edgephi.runtime import providers

pytestmark = pytest.mark.skipif(
    "OpenVINOExecutionProvider" not in ort.get_available_providers(),
    reason="this ONNX Runtime is not the build onnxruntime-openvino",
)
# float32 in another order of sums; 1.1e-6 was seen.
APART = 1e-5


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of Intel's NPU, pointed at the CPU that the build drives."""
    find = providers.find
    record = dataclasses.replace(
        find("openvino"), plugin=None, kind="simulator", options=(*find("openvino").options, ("device_type", "CPU"))
    )
    monkeypatch.setattr(providers, "find", lambda name: record if name == record.name else find(name))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_graphs_for_an_npu_run_in_openvino_but_for_attention(
    precision: str, openvino: None, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """OpenVINO multiplies blocks exactly, the CPU's kernels round activations: int8 is compared by the first tokens."""
    export(tiny_checkpoint("mini"), tmp_path / "npu", precision=precision, device="npu", context=256, threads=1)
    ids = np.random.default_rng(1).integers(5, 380, 70).tolist()
    with (
        edgephi.load(tmp_path / "npu", prefix_cache=False, threads=1) as plain,
        edgephi.load(tmp_path / "npu", device="openvino", prefix_cache=False, threads=1) as device,
    ):
        assert device.device == "openvino" and device.left_to_cpu == {"GroupQueryAttention": plain.manifest.text.layers}
        wanted, given = plain.logits(ids), device.logits(ids)
        allowed = APART if precision == "fp32" else 5e-2
        assert np.linalg.norm(given - wanted) < allowed * np.linalg.norm(wanted)
        tokens = 8 if precision == "fp32" else 1
        assert device.generate(ids, max_tokens=tokens, temperature=0).token_ids == plain.generate(
            ids, max_tokens=tokens, temperature=0).token_ids

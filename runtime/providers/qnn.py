"""Qualcomm's NPU (Hexagon, HTP) through the plugin onnxruntime-qnn.

Facts behind the choices, measured in the simulator of onnxruntime-qnn 2.7: nodes of free dimensions, fused residual
norms and quantized look-ups go to the CPU; a rotary table narrower than half a head is taken and computed wrongly;
grouped-query attention is taken only where a file says so; the default back end is not found by itself.
"""

from __future__ import annotations

from pathlib import Path

from .cpu import default_threads
from .provider import Plugin, Provider

PROVIDER = Provider(
    name="qnn",
    kind="npu",
    ort_name="QNNExecutionProvider",
    activation_dtype="float32",
    runs=("float32",),
    block_bits=(4, 8),
    accuracy_level=4,
    session_config=(),
    default_threads=default_threads,
    hardware=("NPU",),
    install="pip install onnxruntime-qnn, on Windows or Linux with a Snapdragon processor and its NPU driver",
    lowerings=("separate_embedding", "static_shapes", "unfused_norms", "full_rotary"),
    window=64,
    padded_blocks=False,
    plugin=Plugin("onnxruntime_qnn", "onnxruntime-qnn"),
    options=(
        ("backend_type", "htp"),
        ("htp_performance_mode", "burst"),
        ("op_affinity", str(Path(__file__).with_name("qnn_affinity.json"))),
    ),
)

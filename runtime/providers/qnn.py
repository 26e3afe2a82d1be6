"""Qualcomm's NPU (Hexagon, HTP) through the plugin onnxruntime-qnn.

Facts behind the choices, measured in the simulator of onnxruntime-qnn 2.7: nodes of free dimensions, fused residual
norms and quantized look-ups go to the CPU; a rotary table narrower than half a head is taken and computed wrongly;
grouped-query attention is taken only where a file says so; the default back end is not found by itself.
Models of chips and versions of their HTP are those that onnxruntime-qnn itself knows by name.
"""

from __future__ import annotations

from pathlib import Path

from .cpu import default_threads
from .provider import Generation, Plugin, Provider


def _generation(name: str, chip: str, title: str, version: int, model: int) -> Generation:
    """`version` of the HTP and `model` of the chip as Qualcomm numbers them."""
    options = (("htp_arch", str(version)), ("soc_model", str(model)))
    return Generation(name, chip, title, version, options, f"{version}:{model}")


GENERATIONS = (
    _generation("8-gen-2", "SM8550", "Snapdragon 8 Gen 2", 73, 43),
    _generation("x-elite", "SC8380XP", "Snapdragon X Elite and X Plus", 73, 60),
    _generation("8-gen-3", "SM8650", "Snapdragon 8 Gen 3", 75, 57),
    _generation("8-elite", "SM8750", "Snapdragon 8 Elite", 79, 69),
    _generation("8-elite-gen-5", "SM8850", "Snapdragon 8 Elite Gen 5", 81, 87),
    _generation("x2-elite", "SC8480XP", "Snapdragon X2 Elite", 81, 88),
)

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
    plugin=Plugin(
        "onnxruntime_qnn", "onnxruntime-qnn", compiler=("onnxruntime_qnn.build_and_package_info", "qnn_version"),
        in_catalog=True,
    ),
    options=(
        ("backend_type", "htp"),
        ("htp_performance_mode", "burst"),
        ("op_affinity", str(Path(__file__).with_name("qnn_affinity.json"))),
    ),
    generations=GENERATIONS,
    compiles_on=("NPU", "CPU"),
    compiler_options=(("enable_htp_prepare_only", "1"),),
    prints=True,
)

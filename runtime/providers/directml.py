"""Direct3D 12 GPUs of Windows through DirectML, in the package onnxruntime-directml.

Windows ML delivers newer providers for the same machines; DirectML is the one that every Windows machine has. It takes
sequential execution alone, which is what all sessions here have, and no memory pattern.
"""

from __future__ import annotations

from .cpu import default_threads
from .provider import Provider

PROVIDER = Provider(
    name="directml",
    kind="gpu",
    ort_name="DmlExecutionProvider",
    activation_dtype="float16",
    runs=("float16", "float32"),
    block_bits=(4,),
    accuracy_level=4,
    session_config=(),
    default_threads=default_threads,
    hardware=("GPU",),
    install="put onnxruntime-directml in the place of onnxruntime, on Windows 10 or later",
    # ONNX Runtime's table of kernels has no quantized look-up; what else stays is whole numbers
    leaves_to_cpu=("Cast", "Gather", "GatherBlockQuantized", "ReduceSum", "Shape", "Sub"),
    memory_pattern=False,
    memory="dml",
)

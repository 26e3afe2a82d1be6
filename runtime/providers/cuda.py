"""NVIDIA's GPUs through the CUDA provider of the package onnxruntime-gpu."""

from __future__ import annotations

from .cpu import default_threads
from .provider import Provider

PROVIDER = Provider(
    name="cuda",
    kind="gpu",
    ort_name="CUDAExecutionProvider",
    activation_dtype="float16",
    # its attention has no float32, says ONNX Runtime's table of kernels
    runs=("float16",),
    block_bits=(4, 8),
    accuracy_level=4,
    session_config=(),
    default_threads=default_threads,
    hardware=("GPU",),
    install="put onnxruntime-gpu in the place of onnxruntime, on a machine with an NVIDIA driver and CUDA",
    # the key/value cache grows by what it needs, not to the next power of two
    options=(("arena_extend_strategy", "kSameAsRequested"),),
    memory="cuda",
    # ONNX Runtime computes lengths and other whole numbers that steer a GPU on the CPU
    leaves_to_cpu=("Cast", "Gather", "ReduceSum", "Shape", "Sub"),
)

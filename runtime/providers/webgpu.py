"""Any GPU through WebGPU and the plugin onnxruntime-ep-webgpu: Direct3D 12, Vulkan or Metal."""

from __future__ import annotations

from .cpu import default_threads
from .provider import Plugin, Provider

PROVIDER = Provider(
    name="webgpu",
    kind="gpu",
    ort_name="WebGpuExecutionProvider",
    activation_dtype="float16",
    runs=("float16", "float32"),
    block_bits=(2, 4, 8),
    accuracy_level=4,
    session_config=(),
    default_threads=default_threads,
    hardware=("GPU",),
    install="pip install onnxruntime-ep-webgpu, and a graphics driver with Vulkan, Metal or Direct3D 12",
    plugin=Plugin("onnxruntime_ep_webgpu", "onnxruntime-ep-webgpu"),
    memory="webgpu",
)

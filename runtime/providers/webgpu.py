"""Any GPU through WebGPU and the plugin onnxruntime-ep-webgpu: Direct3D 12, Vulkan or Metal.

The plugin drives one device at a time and picks the GPU by itself. It copies inputs when they are bound, and keys and
values that are bound on the host are not appended to in place: both seen with version 0.4.
"""

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
    # the variable lets a machine without a GPU offer its CPU besides, which the record webgpu_software takes
    plugin=Plugin(
        "onnxruntime_ep_webgpu", "onnxruntime-ep-webgpu", (("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1"),),
        in_catalog=True,
    ),
    # lengths are whole numbers, which ONNX Runtime computes on the CPU that reads them
    leaves_to_cpu=("Cast", "Gather", "ReduceSum", "Shape", "Sub"),
    memory="webgpu",
    fused_products=False,
)

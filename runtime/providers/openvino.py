"""Intel's NPUs through the plugin onnxruntime-ep-openvino.

It shares the graphs of fixed shapes that the other NPU runs. OpenVINO leaves grouped-query attention to ONNX Runtime's
CPU kernels (seen with its CPU device), so every layer crosses over once; that is reported when a session begins.
"""

from __future__ import annotations

from dataclasses import replace

from . import qnn
from .provider import Plugin

PROVIDER = replace(
    qnn.PROVIDER,
    name="openvino",
    ort_name="OpenVINOExecutionProvider",
    hardware=("NPU",),
    install="pip install onnxruntime-ep-openvino, on an Intel Core Ultra machine with its NPU driver",
    plugin=Plugin("onnxruntime_ep_openvino", "onnxruntime-ep-openvino", in_catalog=True),
    options=(),
    leaves_to_cpu=("GroupQueryAttention",),
    generations=(),
    prints=False,
)

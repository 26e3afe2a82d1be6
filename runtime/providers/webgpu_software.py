"""WebGPU without a GPU, through a Vulkan driver that computes on the CPU such as SwiftShader: right answers, slowly.

It shows that graphs run on WebGPU and what its kernels do to them; nobody is given it who asks for a GPU. SwiftShader
lies beside Chromium and is found by the variable VK_DRIVER_FILES of the Vulkan loader; it has no float16, so graphs for
a GPU open with it and do not run. Mesa's lavapipe of Debian 12 lacks what WebGPU asks for. Attention over 32 or more
new positions takes a kernel that is wrong from the fifth on in SwiftShader, whose subgroups have 4 lanes: seen with
version 0.4 of the plugin, so steps are narrower.
"""

from __future__ import annotations

from dataclasses import replace

from . import webgpu

PROVIDER = replace(
    webgpu.PROVIDER,
    name="webgpu_software",
    kind="simulator",
    activation_dtype="float32",
    runs=("float32",),
    hardware=("CPU",),
    widest=31,
    install=(
        "pip install onnxruntime-ep-webgpu, the Vulkan loader, and a software driver named in VK_DRIVER_FILES, "
        "as Chromium's vk_swiftshader_icd.json"
    ),
)

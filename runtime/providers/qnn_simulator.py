"""The simulator of Qualcomm's NPU inside the wheel of onnxruntime-qnn for x86: right answers, slowly.

It shows that graphs run on the NPU wholly and what its arithmetic does to them; nobody is given it who asks for an NPU.
Without a generation its compiler leaves MatMulNBits to the CPU: 75 and 57 are Snapdragon 8 Gen 3's.
"""

from __future__ import annotations

from dataclasses import replace

from . import qnn

PROVIDER = replace(
    qnn.PROVIDER,
    name="qnn_simulator",
    kind="simulator",
    hardware=("CPU",),
    install="pip install onnxruntime-qnn, on Linux x86-64 with glibc 2.35 or later",
    options=(
        *(option for option in qnn.PROVIDER.options if option[0] != "htp_performance_mode"),
        ("htp_arch", "75"),
        ("soc_model", "57"),
    ),
)

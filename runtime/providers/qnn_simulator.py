"""The simulator of Qualcomm's NPU inside the wheel of onnxruntime-qnn for x86: right answers, slowly.

It shows that graphs run on the NPU wholly and what its arithmetic does to them; nobody is given it who asks for an NPU.
Without a generation its compiler leaves MatMulNBits to the CPU, so it stands for one: "qnn_simulator:x2-elite" for
another. It opens no compiled graphs that share weights ("not supported by implementation").
"""

from __future__ import annotations

from dataclasses import replace

from . import qnn

_DEFAULT = next(generation for generation in qnn.GENERATIONS if generation.name == "8-gen-3")

PROVIDER = replace(
    qnn.PROVIDER,
    name="qnn_simulator",
    kind="simulator",
    hardware=("CPU",),
    install="pip install onnxruntime-qnn, on Linux x86-64 with glibc 2.35 or later",
    options=tuple(option for option in qnn.PROVIDER.options if option[0] != "htp_performance_mode"),
    shares_weights=False,
).for_generation(_DEFAULT)

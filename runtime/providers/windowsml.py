"""GPUs of Windows 11 through the providers that only Windows ML delivers: NVIDIA's TensorRT for RTX and AMD's MIGraphX.

Windows keeps them up to date; the package windowsml says which are on the machine. The providers that other records
here drive come out of the same catalog where their packages are not installed. Neither makes of the options that they
document anything that these graphs need, so none is set.
"""

from __future__ import annotations

from .cpu import default_threads
from .provider import Plugin, Provider

PROVIDER = Provider(
    name="windowsml",
    kind="gpu",
    ort_name="NvTensorRTRTXExecutionProvider",
    stand_ins=("MIGraphXExecutionProvider",),
    activation_dtype="float16",
    runs=("float16", "float32"),
    block_bits=(4,),
    accuracy_level=4,
    session_config=(),
    default_threads=default_threads,
    hardware=("GPU",),
    install="pip install windowsml, on Windows 11 24H2 or later with an NVIDIA RTX or AMD GPU and its driver",
    plugin=Plugin("windowsml", "windowsml", in_catalog=True),
    leaves_to_cpu=("Cast", "Gather", "ReduceSum", "Shape", "Sub"),
)

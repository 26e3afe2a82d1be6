"""The capability record that every device file fills in. Standard library only: export reads it too.

Code asks a record what the device can do; nobody asks for its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Provider:
    """What one kind of device can run and how ONNX Runtime is set up for it.

    `activation_dtype`: dtype of activations, KV cache and logits.
    `block_bits`: widths of MatMulNBits weights with a fast kernel.
    `accuracy_level`: the attribute of MatMulNBits that selects the fast kernel (4 = int8 activations per block of a
    row). `session_config`: entries of ONNX Runtime's session configuration. `default_threads`: how many threads to
    use when the user does not say.
    """

    name: str
    ort_name: str
    activation_dtype: str
    block_bits: tuple[int, ...]
    accuracy_level: int
    session_config: tuple[tuple[str, str], ...]
    default_threads: Callable[[], int]

    def __post_init__(self) -> None:
        if self.activation_dtype not in ("float32", "float16"):
            found = repr(self.activation_dtype)
            raise ValueError(f"provider {self.name}: activation dtype {found} is not float32 or float16")
        if not set(self.block_bits) <= {2, 4, 8}:
            raise ValueError(f"provider {self.name}: block bits {self.block_bits} must be among 2, 4, 8")

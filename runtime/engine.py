"""ONNX Runtime itself, with its telemetry off: the only file of this package that imports it.

Boundary: nothing but the import and its errors. What it would do silently besides is refused in graphs.py.
"""

from __future__ import annotations

import os
import sys
import warnings

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"

# The wheels read the variable once, while they are imported: a call after that comes too late for the first event.
if "onnxruntime" in sys.modules and os.environ.get(TELEMETRY_OFF) != "1":
    warnings.warn(
        "onnxruntime was imported before edgephi and may have sent telemetry:"
        f" set {TELEMETRY_OFF}=1 or import edgephi first",
        RuntimeWarning,
        stacklevel=2,
    )
os.environ[TELEMETRY_OFF] = "1"

import onnxruntime as ort  # noqa: E402  # only now
from onnxruntime.capi import onnxruntime_pybind11_state as _state  # noqa: E402

__all__ = ["ENGINE_ERRORS", "RUNTIME", "TELEMETRY_OFF", "first_line", "ort"]

RUNTIME = f"onnxruntime {ort.__version__}"
# run_with_iobinding raises RuntimeError, everything else raises the library's own classes, which share no parent.
ENGINE_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says, short enough for an error of one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]

"""ONNX Runtime itself, with its telemetry off: the only file of this package that imports it.

Boundary: the import, its errors, and what has no public interface. What it would do silently besides is refused in
graphs.py.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

__all__ = [
    "ENGINE_ERRORS", "FATAL", "RUNTIME", "TELEMETRY_OFF", "WARNING", "first_line", "ort", "silent_stdout",
    "takes_compiled",
]

# Log severities. What goes wrong arrives as an exception, stderr stays ours.
FATAL, WARNING = 4, 2
_SHOWN = 300  # characters of an error
RUNTIME = f"onnxruntime {ort.__version__}"
# run_with_iobinding raises RuntimeError, everything else raises the library's own classes, which share no parent.
ENGINE_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says, short enough for an error of one line: what matters stands at its end."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= _SHOWN else f"...{line[-_SHOWN:]}"


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Throw away what a library writes to stdout, which belongs to answers. For the whole process, so for moments."""
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no stdout at all
        yield
        return
    try:
        _flush()
        os.dup2(nowhere, 1)
        yield
    finally:
        _flush()  # a pipe's text waits in the library's buffer
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)


def takes_compiled(devices: list[Any], compatibility: str) -> bool:
    """What the provider of these devices says of graphs that were compiled with this statement of compatibility."""
    kinds = _state.OrtCompiledModelCompatibility
    try:
        verdict = _state.get_model_compatibility_for_ep_devices(devices, compatibility)
    except ENGINE_ERRORS:
        return False
    return verdict in (kinds.EP_SUPPORTED_OPTIMAL, kinds.EP_SUPPORTED_PREFER_RECOMPILATION)

"""What a figure was measured on: processor, memory, system and the versions of everything that matters."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("edgephi", "numpy", "ml_dtypes", "onnx_ir", "onnxruntime", "tokenizers")


def describe() -> dict[str, str | int]:
    """Processor model, processors that this process may use, memory in bytes, system; no name of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "processors": len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        "memory_bytes": int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) * 1024,
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _field(path: str, name: str) -> str | None:
    """The first value of `name` in a file of `name : value` lines."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None

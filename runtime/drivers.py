"""The drivers of GPUs and NPUs as the Linux kernel names them.

Boundary: reads what the kernel shows of bound devices; other systems tell through ONNX Runtime's list of devices.
"""

from __future__ import annotations

from pathlib import Path

KERNEL = Path("/sys")
_CLASSES = ("class/drm", "class/accel")  # display adapters; compute accelerators, NPUs among them


def found() -> tuple[str, ...]:
    """"driver version (its devices)" for each driver, the version where it has one; empty on other systems."""
    bound: dict[str, set[str]] = {}
    for folder in _CLASSES:
        for device in sorted((KERNEL / folder).glob("*")):
            driver = device / "device" / "driver"
            if driver.exists():
                bound.setdefault(driver.resolve().name, set()).add(device.name)
    return tuple(
        f"{' '.join(filter(None, (name, _version(name))))} ({', '.join(sorted(devices))})"
        for name, devices in sorted(bound.items())
    )


def _version(driver: str) -> str:
    try:
        return (KERNEL / "module" / driver / "version").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

"""How much memory this machine can give without pushing something else out, and how much this process had at most.

Boundary: numbers only. None means that the system does not tell, and then nothing is refused for lack of memory. Each
system has its own way to ask.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
# What macOS gives up before it swaps: free pages, pages of files, and what programs declared purgeable.
_MACOS_PAGES = (b"vm.page_free_count", b"vm.page_pageable_external_count", b"vm.page_purgeable_count")


def available_memory() -> int | None:
    """Bytes that a program can take now: free memory, and pages of files, which a system drops without loss."""
    if sys.platform == "win32":
        return _windows()
    return _macos() if sys.platform == "darwin" else _linux()


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes; 0 where the system does not tell."""
    largest = _field(_STATUS, "VmHWM:")
    if largest is not None:
        return largest << 10
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # kibibytes, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _linux() -> int | None:
    """What the kernel estimates, or less where the limit of a container is closer."""
    available = _field(_MEMINFO, "MemAvailable:")
    if available is None:
        return None
    rooms = [room for group in _groups() if (room := _room(group)) is not None]
    return min([available << 10, *rooms])


def _groups() -> list[Path]:
    """The control group of this process and those around it (version 2; inside a container often the root alone)."""
    try:
        lines = _OWN_GROUP.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return []
    path = _GROUPS / own
    return [path, *(parent for parent in path.parents if parent.is_relative_to(_GROUPS))]


def _room(group: Path) -> int | None:
    """What a control group may still take, its cached files not counted; None where it has no limit."""
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - int(used) + (_field(group / "memory.stat", "inactive_file") or 0))


def _field(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)


def _windows() -> int | None:
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_ulong), ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong), ("available", ctypes.c_ulonglong), ("others", ctypes.c_ulonglong * 5),
        )

    if sys.platform == "win32":
        status = Status(length=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status.available)
    return None


def _macos() -> int | None:
    library = ctypes.CDLL(None)

    def read(name: bytes) -> int:
        value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
        failed = library.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        return 0 if failed else value.value

    return sum(map(read, _MACOS_PAGES)) * read(b"hw.pagesize") or None

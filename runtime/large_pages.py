"""Large pages of memory for weights: fewer page faults while they are packed, fewer address look-ups in every step.

Boundary: the environment of a process, on Linux with glibc; elsewhere there is nothing to ask for. Where the system
gives large pages on request only (the setting `madvise`, which Ubuntu and Fedora ship), malloc requests them if a
tunable says so (glibc manual, "Memory Allocation Tunables", glibc.malloc.hugetlb), and it reads its tunables once, when
a process starts. So a program starts itself anew, and one that embeds edgephi is started with `variables`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never"


def state() -> str:
    """What this process gets, in words."""
    setting = _setting()
    if setting in ("always", "never"):
        return f"{setting} given"
    if setting and _TUNABLE in os.environ.get(TUNABLES, ""):
        return f"as {TUNABLES} says: {os.environ[TUNABLES]}"
    if variables():
        return f"given on request: the commands that load a bundle do, an application sets {TUNABLES}={_TUNABLE}=1"
    return "nothing to ask for on this system"


def variables() -> dict[str, str]:
    """The environment variables that a process must be started with to get large pages; none where it does already."""
    told = os.environ.get(TUNABLES, "")
    if _setting() != "madvise" or not _has_glibc() or _TUNABLE in told:
        return {}
    return {TUNABLES: ":".join(filter(None, (told, f"{_TUNABLE}=1")))}


def start_anew() -> None:
    """Run this program from its beginning, with large pages; returns where that changes nothing or cannot be done."""
    wanted = variables()
    if wanted and sys.executable:
        os.environ.update(wanted)
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _setting() -> str:
    try:
        words = _SETTING.read_text(encoding="ascii").split()
    except OSError:
        return ""
    return next((word.strip("[]") for word in words if word.startswith("[")), "")


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError):  # Windows; another C library
        return False

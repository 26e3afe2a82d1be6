"""Runs one command and measures what it costs: time, processor time and memory, file-backed pages included.

Boundary: knows processes, not what they do. Linux only: peaks are read from /proc while the process lives.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgephi.runtime.errors import RequestError

SAMPLE_SECONDS = 0.01
_FIELDS = ("VmHWM", "RssAnon", "RssFile")


@dataclass(frozen=True)
class Usage:
    """Cost of one process; seconds and bytes.

    `peak_resident` is the high-water mark of resident pages as the kernel counts it (VmHWM): anonymous, shared and
    file-backed. `peak_anonymous` and `peak_file_backed` are the largest samples of its two main parts, which need not
    coincide. `reported_peak` is getrusage's figure, which may be that of this process before the child began.
    """

    seconds: float
    cpu_seconds: float
    peak_resident: int
    peak_anonymous: int
    peak_file_backed: int
    reported_peak: int
    output: str


def run(
    command: Sequence[str], every: float = SAMPLE_SECONDS, variables: Mapping[str, str] = MappingProxyType({})
) -> Usage:
    """Run a command to its end, looking at its memory `every` so many seconds; stderr stays visible.

    `variables` are added to its environment.

    Raises RequestError if it fails or the system has no /proc.
    """
    if not Path("/proc/self/status").is_file():
        raise RequestError(f"memory is measured through /proc, which {sys.platform} does not have: run this on Linux")
    peaks = dict.fromkeys(_FIELDS, 0)
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=output, env={**os.environ, **variables})
        try:
            while not _ended(child.pid):
                _sample(child.pid, peaks)
                time.sleep(every)
        except BaseException:
            child.kill()
            child.wait()
            raise
        seconds = time.monotonic() - started
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode("utf-8", errors="replace")
    if child.returncode:
        raise RequestError(f"{' '.join(command)} ended with {child.returncode}: see its message above")
    return Usage(
        seconds, usage.ru_utime + usage.ru_stime, peaks["VmHWM"], peaks["RssAnon"], peaks["RssFile"],
        usage.ru_maxrss * 1024, text,
    )


def memory(pid: int | None = None) -> dict[str, int]:
    """Bytes of every size that the kernel tells of a process, this one by default: VmRSS, VmHWM, RssAnon, RssFile, …

    Raises OSError where there is no such process, or no /proc.
    """
    status = Path(f"/proc/{'self' if pid is None else pid}/status").read_text(encoding="ascii", errors="replace")
    told = (line.split() for line in status.splitlines() if line.endswith(" kB"))
    return {name.removesuffix(":"): int(size) << 10 for name, size, _ in told}


def _ended(pid: int) -> bool:
    """Whether the child ended; it stays there to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _sample(pid: int, peaks: dict[str, int]) -> None:
    """Raise the peaks to what /proc says now."""
    try:
        sizes = memory(pid)
    except OSError:  # it ended meanwhile
        return
    for name, peak in peaks.items():
        peaks[name] = max(peak, sizes.get(name, 0))

"""What the machine itself allows: bytes read from memory and int8 operations a second.

Boundary: compiles limits.c for this processor and reads what it prints. The memory of a shared machine changes its
speed within minutes, so a measurement is preceded by a probe of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgephi.runtime.errors import RequestError

_SOURCE = Path(__file__).with_name("limits.c")


@dataclass(frozen=True)
class Limits:
    """Bytes a second and operations a second; 0 operations where the processor has no VNNI instructions."""

    read_bytes: float
    int8_operations: float


class Probe:
    """Measures the limits in some tenths of a second, as often as asked. A context manager."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __enter__(self) -> Probe:
        """Compile the program. Raises RequestError where no C compiler with OpenMP is."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RequestError("the limits of this machine are measured by a C program: install a C compiler")
        self._folder = tempfile.TemporaryDirectory(prefix="edgephi-limits-")
        self._program = Path(self._folder.name) / "limits"
        command = [compiler, "-O3", "-march=native", "-fopenmp", str(_SOURCE), "-o", str(self._program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self._folder.cleanup()
            raise RequestError(f"{_SOURCE} does not compile: {done.stderr.splitlines()[0] if done.stderr else command}")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def measure(self) -> Limits:
        """The limits now."""
        command = [str(self._program), str(self._threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return Limits(*(float(field) for field in done.stdout.split()))

"""The measurement itself, on processes whose cost is known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgephi.benchmarks import machine, processes
from edgephi.runtime.errors import RequestError

MEGABYTE = 1 << 20
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is measured through /proc")

TOUCH = """
import mmap, sys, time
kind, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "anonymous":
    memory = bytearray(size)
    for offset in range(0, size, 4096):
        memory[offset] = 1
else:
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sum(memory[offset] for offset in range(0, size, 4096))
time.sleep(0.1)
print("done")
"""


def touch(kind: str, path: Path, size: int) -> processes.Usage:
    return processes.run([sys.executable, "-c", TOUCH, kind, str(path), str(size)])


def test_anonymous_and_file_backed_pages_count(tmp_path: Path) -> None:
    path, size = tmp_path / "data", 96 * MEGABYTE
    path.write_bytes(bytes(size))
    base = touch("anonymous", path, 4096)
    anonymous, mapped = (touch(kind, path, size) for kind in ("anonymous", "mapped"))
    # an interpreter alone varies by a few megabytes from run to run
    slack = 16 * MEGABYTE
    for usage in (anonymous, mapped):
        assert abs(usage.peak_resident - base.peak_resident - size) < slack
        assert usage.output == "done\n"
    assert abs(anonymous.peak_anonymous - base.peak_anonymous - size) < slack
    assert abs(anonymous.peak_file_backed - base.peak_file_backed) < slack
    assert abs(mapped.peak_file_backed - base.peak_file_backed - size) < slack
    assert abs(mapped.peak_anonymous - base.peak_anonymous) < slack


def test_the_peak_is_kept_after_memory_was_given_back() -> None:
    code = "x = bytearray(96 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\ndel x\nimport time; time.sleep(0.1)"
    assert processes.run([sys.executable, "-c", code]).peak_resident > 96 * MEGABYTE


def test_processor_time_is_not_waiting() -> None:
    usage = processes.run([sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert usage.seconds >= 0.3
    assert 0 < usage.cpu_seconds
    busy = processes.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"])
    assert busy.cpu_seconds >= 0.3


def test_a_report_larger_than_a_pipe_arrives_whole() -> None:
    assert len(processes.run([sys.executable, "-c", "print('x' * 1000000)"]).output) == 1_000_001


def test_a_failure_is_an_error() -> None:
    with pytest.raises(RequestError, match="ended with 3"):
        processes.run([sys.executable, "-c", "import sys; sys.exit(3)"])


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    described = machine.describe()
    assert int(described["memory_bytes"]) > 1 << 28
    assert int(described["processors"]) >= 1
    assert described["processor"] != "unknown"
    assert platform.node() not in " ".join(map(str, described.values()))
    assert machine.versions()["python"] == platform.python_version()
    assert {"edgephi", "numpy", "onnxruntime"} <= machine.versions().keys()

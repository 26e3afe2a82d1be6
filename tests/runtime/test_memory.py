"""Free memory: what the kernel estimates, or less inside a container with a limit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgephi.runtime import memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux machine with 8 GiB free, this process in the control group a/b."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\nMemAvailable:   {8 << 20} kB\n")
    (tmp_path / "own").write_text("0::/a/b\n")
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def limit(group: Path, maximum: str, used: int, cached: int) -> None:
    (group / "memory.max").write_text(f"{maximum}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")


def test_without_a_limit_it_is_what_the_kernel_estimates(machine: Path) -> None:
    assert memory.available_memory() == 8 * GIB
    limit(machine / "groups" / "a", "max", GIB, GIB)
    assert memory.available_memory() == 8 * GIB


def test_the_closest_limit_counts_without_cached_files(machine: Path) -> None:
    limit(machine / "groups" / "a", str(6 * GIB), 5 * GIB, GIB)
    limit(machine / "groups" / "a" / "b", str(4 * GIB), GIB, 0)
    assert memory.available_memory() == 2 * GIB
    limit(machine / "groups" / "a" / "b", str(4 * GIB), 5 * GIB, GIB // 2)
    assert memory.available_memory() == 0


def test_a_system_that_does_not_tell_gives_none(machine: Path) -> None:
    (machine / "meminfo").write_text("MemTotal: 5 kB\n")
    assert memory.available_memory() is None
    (machine / "meminfo").unlink()
    assert memory.available_memory() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_this_machine_has_less_free_than_in_all() -> None:
    total = next(int(line.split()[1]) << 10 for line in Path("/proc/meminfo").read_text().splitlines())
    found = memory.available_memory()
    assert found is not None and 0 < found < total

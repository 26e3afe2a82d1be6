"""Devices: found by listing the folder, described by a record that cannot contradict itself."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from edgephi import ProviderUnavailable
from edgephi.runtime import providers
from edgephi.runtime.providers import cpu


@pytest.mark.parametrize("name", providers.names())
def test_every_file_is_a_device_of_its_name(name: str) -> None:
    record = providers.find(name)
    assert record.name == name
    assert record.default_threads() >= 1
    assert dataclasses.replace(record) == record


def test_a_device_that_no_file_has_is_named_with_those_that_are() -> None:
    for name in ("abacus", "provider", "", "../cpu"):
        with pytest.raises(ProviderUnavailable, match=r"is not known; .* cpu, .*windowsml: choose one"):
            providers.find(name)


def test_a_record_refuses_what_no_kernel_has() -> None:
    with pytest.raises(ValueError, match="activation dtype 'int8' is not float32 or float16"):
        dataclasses.replace(cpu.PROVIDER, activation_dtype="int8")
    with pytest.raises(ValueError, match="does not run the float16 that is made for it"):
        dataclasses.replace(cpu.PROVIDER, runs=("float32",), activation_dtype="float16")
    with pytest.raises(ValueError, match="a window of 1 positions"):
        dataclasses.replace(cpu.PROVIDER, window=1)
    with pytest.raises(ValueError, match=r"block bits \(3,\) must be among 2, 4, 8"):
        dataclasses.replace(cpu.PROVIDER, block_bits=(3,))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cores of two hyper-threads each, without a container's quota."""
    for thread in range(8):
        topology = tmp_path / f"cpu{thread}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{thread % 4},{thread % 4 + 4}\n")
    monkeypatch.setattr(cpu, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(cpu, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return tmp_path


def test_hyper_threads_share_a_core(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.default_threads() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 1})
    assert cpu.default_threads() == 2


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 4), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4),
        ("nonsense", 4),
    ],
)
def test_a_container_gets_what_it_was_granted(machine: Path, quota: str, threads: int) -> None:
    (machine / "cpu.max").write_text(quota + "\n")
    assert cpu.default_threads() == threads


def test_without_topology_every_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_TOPOLOGY", tmp_path / "none")
    monkeypatch.setattr(cpu, "_CGROUP_QUOTA", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpu.default_threads() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu.default_threads() == 1

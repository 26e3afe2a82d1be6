"""Threads and spinning: one real setting in a process of its own, and the table of made-up ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgephi.benchmarks import thread_settings
from edgephi.benchmarks.thread_settings import CASES, SPINS, Setting
from edgephi.runtime.errors import RequestError


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no processes to cores")
def test_a_setting_is_measured_in_a_process_of_its_own(tiny_bundle: Callable[..., Path]) -> None:
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "edgephi.benchmarks.thread_settings", str(tiny_bundle("mini")), "--spin", "0"]
    ended = subprocess.run([*command, "--core", str(core)], capture_output=True, text=True, check=True)
    told = json.loads(ended.stdout)
    assert told["token"] > 0 and told["processor"] > 0


def test_one_core_is_not_enough(tiny_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    with pytest.raises(RequestError, match="compared on two cores"):
        thread_settings.measure(tiny_bundle("mini"))


def test_the_table_has_every_case(tmp_path: Path) -> None:
    found = [
        Setting(case, spin, 0.05 + 0.01 * row, 0.1) for row, case in enumerate(CASES) for spin in SPINS
    ]
    thread_settings.write("made-up", found, tmp_path)
    text = (tmp_path / "thread_settings.md").read_text()
    assert "| one core | 50.0 (100) | 50.0 (100) | 50.0 (100) | 50.0 (100) |" in text
    assert "busy waiting | no spinning | spin 50 µs | spin 1000 µs" in text
    assert len(json.loads((tmp_path / "thread_settings.json").read_text())["settings"]) == len(found)

"""Large pages are requested where the system waits to be asked, once, and the program goes on as it was called."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgephi.runtime import large_pages

ON_REQUEST = "always [madvise] never\n"
# Says how it was called, then takes 64 MiB as a library does and says how much of that lies in large pages.
PROGRAM = """
import ctypes, sys
from edgephi.runtime import large_pages

large_pages.start_anew()
size = 64 << 20
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
ctypes.memset(library.malloc(ctypes.c_size_t(size)), 1, size)
rollup = open("/proc/self/smaps_rollup").read().splitlines()
print(sys.argv[1:], next(int(line.split()[1]) for line in rollup if line.startswith("AnonHugePages")))
"""


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(large_pages.TUNABLES, raising=False)
    monkeypatch.setattr(large_pages, "_SETTING", tmp_path / "enabled")
    monkeypatch.setattr(large_pages, "_has_glibc", lambda: True)
    return tmp_path / "enabled"


def test_they_are_requested_where_the_system_waits_to_be_asked(setting: Path) -> None:
    setting.write_text(ON_REQUEST)
    assert large_pages.variables() == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in large_pages.state()


@pytest.mark.parametrize("content", ["[always] madvise never\n", "always madvise [never]\n", "", None])
def test_nothing_is_requested_where_that_changes_nothing(setting: Path, content: str | None) -> None:
    if content is not None:
        setting.write_text(content)
    assert large_pages.variables() == {}
    assert large_pages.state() in ("always given", "never given", "nothing to ask for on this system")


def test_other_tunables_stay(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.write_text(ON_REQUEST)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    assert large_pages.variables() == {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"}


def test_what_the_user_said_is_not_changed(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.write_text(ON_REQUEST)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert large_pages.variables() == {}
    assert large_pages.state() == "as GLIBC_TUNABLES says: glibc.malloc.hugetlb=0"


def test_another_c_library_is_asked_for_nothing(setting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.write_text(ON_REQUEST)
    monkeypatch.setattr(large_pages, "_has_glibc", lambda: False)
    assert large_pages.variables() == {}
    assert large_pages.state() == "nothing to ask for on this system"


@pytest.mark.skipif(
    not large_pages.variables() or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35),
    reason="this system gives large pages always, never, or to no C library of this age",
)
def test_a_program_goes_on_with_its_arguments_and_large_pages(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), "a b", "--c"]
    small = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    without = subprocess.run(command, env=small, capture_output=True, text=True, check=True)
    assert without.stdout == "['a b', '--c'] 0\n"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    called, _, kilobytes = done.stdout.rpartition(" ")
    assert called == "['a b', '--c']"
    assert int(kilobytes) >= 32 << 10

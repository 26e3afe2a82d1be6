"""What is made of schemathesis's last words; the run itself is tests/server/test_openapi.py's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgephi import RequestError
from edgephi.benchmarks import fuzz


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What schemathesis says and how it ends, without it and without a server."""
    told = SimpleNamespace(stdout="", stderr="", returncode=0, command=[])

    @contextmanager
    def serving(*arguments: Any) -> Iterator[tuple[None, int]]:
        yield None, 8484

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        told.command = command
        return told

    monkeypatch.setattr(fuzz, "serving", serving)
    monkeypatch.setattr(fuzz.subprocess, "run", run)
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "edgephi.json").write_text('{"capabilities": ["text"]}')
    return tmp_path / "demo"


def test_a_clean_run(said: SimpleNamespace, folder: Path, tmp_path: Path) -> None:
    said.stdout = "Test cases:\n  120 generated, 120 passed\n"
    found = fuzz.measure(folder, 7, 3, 1)
    assert (found.generated, found.passed, found.exit_code, found.failures) == (120, 120, 0, "")
    assert "http://127.0.0.1:8484/openapi.json" in said.command and ",".join(fuzz.CHECKS) in said.command
    fuzz.write(found, tmp_path)
    fuzz.write(dataclasses.replace(found, bundle="other", generated=9, passed=8), tmp_path)
    fuzz.write(found, tmp_path)
    assert [run["bundle"] for run in json.loads((tmp_path / fuzz.RESULTS_NAME).read_bytes())] == ["other", "demo"]
    assert "| demo (text) | 7 | 3 | 120 | 0 |" in (tmp_path / fuzz.TABLE_NAME).read_text()
    assert "| other (text) | 7 | 3 | 9 | 1 |" in (tmp_path / fuzz.TABLE_NAME).read_text()


def test_a_finding_is_kept_and_nothing_at_all_is_an_error(said: SimpleNamespace, folder: Path) -> None:
    said.stdout, said.returncode = "curl -X POST ...\n  120 generated, 2 found 2 unique failures\n", 1
    found = fuzz.measure(folder, 7, 3, None)
    assert found.passed == 0 and found.exit_code == 1 and "curl" in found.failures
    said.stdout, said.stderr = "", "No module named schemathesis"
    with pytest.raises(RequestError, match="No module"):
        fuzz.measure(folder, 7, 3, None)

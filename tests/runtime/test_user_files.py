"""Files that edgephi keeps for a user: whole or as before, and nothing half written beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgephi.runtime.user_files import write_whole


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "facts.json"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"

    def fail(begun: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"lost")
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]

"""The staging folder: durable, resumable, published in one rename, and nothing half-written when the disk refuses."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgephi import ExportError, ManifestError
from edgephi.export.bundle import HEADROOM, Staging, work_folder
from edgephi.export.pipeline import export
from edgephi.runtime.manifest import MANIFEST_NAME, Manifest, read_manifest, verify_files

FILE = "text.onnx.data"


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Callable[..., Path]) -> Manifest:
    """A manifest that names no file but the data file that these tests write."""
    whole = read_manifest(tiny_bundle("mini"))
    return replace(whole, graphs={}, files={}, text=replace(whole.text, rotary=()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def left_beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def fill(staging: Staging, weights: Mapping[str, int]) -> None:
    """Write each weight as 8 bytes of its number and record it, unless it is there."""
    staging.create_data(FILE, 8 * len(weights))
    for index, (name, value) in enumerate(weights.items()):
        if staging.finished(name) is None:
            staging.write(FILE, 8 * index, np.full(8, value, np.uint8))
            staging.record(name, [(FILE, 8 * index, 8)], {"value": value})


def test_a_published_folder_is_the_bundle(tmp_path: Path, manifest: Manifest) -> None:
    target = tmp_path / "a folder ü" / "bundle"
    with Staging(target, "key") as staging:
        fill(staging, {"a": 1, "b": 2})
        staging.add_file("note.txt", b"hello")
        assert not target.exists()
        published = staging.publish(manifest)
    assert contents(target).keys() == {FILE, "note.txt", MANIFEST_NAME}
    assert (target / FILE).read_bytes() == bytes([1] * 8 + [2] * 8)
    assert read_manifest(target) == published
    verify_files(target, published)
    assert left_beside(target) == []


def test_an_interrupted_export_goes_on(tmp_path: Path, manifest: Manifest) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(KeyboardInterrupt), Staging(target, "key") as staging:
        fill(staging, {"a": 1, "b": 2})
        raise KeyboardInterrupt
    assert not target.exists() and work_folder(target).is_dir()
    with Staging(target, "key") as staging:
        staging.create_data(FILE, 24)
        assert staging.finished("a") == {"value": 1} and staging.finished("b") == {"value": 2}
        assert staging.finished("c") is None
        staging.write(FILE, 16, np.full(8, 3, np.uint8))
        staging.record("c", [(FILE, 16, 8)], {"value": 3})
        staging.publish(manifest)
    assert (target / FILE).read_bytes() == bytes([1] * 8 + [2] * 8 + [3] * 8)
    assert left_beside(target) == []


@contextmanager
def interrupted(target: Path, weights: Mapping[str, int]) -> Iterator[Path]:
    with pytest.raises(KeyboardInterrupt), Staging(target, "key") as staging:
        fill(staging, weights)
        raise KeyboardInterrupt
    yield work_folder(target)


def test_what_a_killed_export_left_half_written_is_no_part_of_the_bundle(tmp_path: Path, manifest: Manifest) -> None:
    target = tmp_path / "bundle"
    with interrupted(target, {"a": 1}) as work:
        for name in ("edgephi.json", "edgephi.json.tmp", "text.onnx.tmp", "vision.onnx"):
            (work / "bundle" / name).write_text("{")
        with Staging(target, "key") as staging:
            fill(staging, {"a": 1})
            published = staging.publish(manifest)
    assert published.files.keys() == {FILE} and contents(target).keys() == {FILE, MANIFEST_NAME}


def test_another_key_begins_anew(tmp_path: Path) -> None:
    with interrupted(tmp_path / "bundle", {"a": 1}), Staging(tmp_path / "bundle", "other") as staging:
        staging.create_data(FILE, 8)
        assert staging.finished("a") is None


def test_bytes_that_changed_are_not_believed(tmp_path: Path) -> None:
    with interrupted(tmp_path / "bundle", {"a": 1, "b": 2}) as work:
        with (work / "bundle" / FILE).open("r+b") as file:
            file.seek(11)
            file.write(b"x")
        with Staging(tmp_path / "bundle", "key") as staging:
            staging.create_data(FILE, 16)
            assert staging.finished("a") == {"value": 1} and staging.finished("b") is None


def test_a_lost_data_file_is_not_believed(tmp_path: Path) -> None:
    with interrupted(tmp_path / "bundle", {"a": 1}) as work:
        (work / "bundle" / FILE).unlink()
        with Staging(tmp_path / "bundle", "key") as staging:
            staging.create_data(FILE, 8)
            assert staging.finished("a") is None


def test_a_journal_torn_anywhere_is_read_up_to_there(tmp_path: Path, manifest: Manifest) -> None:
    with interrupted(tmp_path / "bundle", {"a": 1, "b": 2, "c": 3}) as work:
        journal = (work / "journal.jsonl").read_bytes()
        data = (work / "bundle" / FILE).read_bytes()
    for length in range(0, len(journal), 23):
        (work / "bundle").mkdir(parents=True, exist_ok=True)
        (work / "bundle" / FILE).write_bytes(data)
        (work / "journal.jsonl").write_bytes(journal[:length])
        complete = journal[:length].count(b"\n")
        with Staging(tmp_path / "bundle", "key") as staging:
            staging.create_data(FILE, 24)
            found = [name for name in "abc" if staging.finished(name) is not None]
            assert found == list("abc")[:max(0, complete - 1)]
            fill(staging, {"a": 1, "b": 2, "c": 3})
            staging.publish(manifest)
        assert (tmp_path / "bundle" / FILE).read_bytes() == data


def test_only_one_export_writes(tmp_path: Path, manifest: Manifest) -> None:
    with Staging(tmp_path / "bundle", "key") as first:
        with pytest.raises(ExportError, match="another export is writing to it"), Staging(tmp_path / "bundle", "key"):
            pass
        fill(first, {"a": 1})
        first.publish(manifest)
    assert left_beside(tmp_path / "bundle") == []
    with Staging(tmp_path / "bundle", "key"):
        pass


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "sub"])
def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path, name: str, manifest: Manifest) -> None:
    target = tmp_path / "bundle"
    with Staging(target, "key") as staging:
        fill(staging, {"a": 1})
        staging.publish(manifest)
    (target / name).mkdir() if name == "sub" else (target / name).write_text("mine")
    with pytest.raises(ExportError, match=f"holds 1 files that no bundle wrote, '{name}'"), Staging(target, "key"):
        pass
    assert (target / name).exists() and left_beside(target) == []


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(ExportError, match="is a file"), Staging(tmp_path / "bundle", "key"):
        pass
    assert (tmp_path / "bundle").read_text() == "mine"


def test_an_empty_folder_and_a_link_to_one_are_used(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with Staging(tmp_path / "link", "key") as staging:
        fill(staging, {"a": 1})
        staging.publish(manifest)
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "real").keys() == {FILE, MANIFEST_NAME}


def test_a_replacement_cut_between_its_renames_is_undone(tmp_path: Path, manifest: Manifest) -> None:
    target = tmp_path / "bundle"
    with Staging(target, "key") as staging:
        fill(staging, {"a": 1})
        staging.publish(manifest)
    before = contents(target)
    work_folder(target).mkdir()
    target.rename(work_folder(target) / "previous")  # where a power cut would leave it
    with pytest.raises(ZeroDivisionError), Staging(target, "key"):
        raise ZeroDivisionError
    assert contents(target) == before and left_beside(target) == []


def test_a_disk_that_is_too_small_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=HEADROOM + 999))
    with Staging(tmp_path / "bundle", "key") as staging:
        staging.require_space(999)
        with pytest.raises(ExportError, match=r"has 67 MB free, the bundle needs 67 MB more: free some space"):
            staging.require_space(1000)
    assert left_beside(tmp_path / "bundle") == []


def test_a_limit_on_file_sizes_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        with pytest.raises(ExportError, match=f"{FILE}: File too large: free some space"):
            with Staging(tmp_path / "bundle", "key") as staging:
                staging.create_data(FILE, 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left_beside(tmp_path / "bundle") == []


class Fault:
    """Makes the `at`-th call of one function of `os` fail; counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
        self.calls, self.at = 0, 0
        self._original: Callable[..., Any] = getattr(os, name)
        self._code = code
        monkeypatch.setattr(os, name, self._call)

    def arm(self, at: int) -> None:
        self.calls, self.at = 0, at

    def _call(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self._code, os.strerror(self._code))
        return self._original(*arguments, **options)


CASES = [
    ("write", errno.ENOSPC), ("write", errno.EIO), ("fsync", errno.EIO), ("fsync", errno.ENOSPC),
    ("replace", errno.EACCES), ("rename", errno.EIO), ("posix_fallocate", errno.ENOSPC), ("open", errno.EACCES),
]


@pytest.mark.parametrize(("name", "code"), CASES, ids=lambda value: errno.errorcode.get(value, value))
def test_whichever_call_fails_the_old_bundle_stays_and_the_export_can_be_repeated(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    """Fail the first call, the second, and so on until an export needs no more calls."""
    checkpoint = tiny_checkpoint("window", num_hidden_layers=1)
    target, straight = tmp_path / "bundle", tmp_path / "straight"
    export(checkpoint, target, precision="int8", threads=1)
    old = contents(target)
    export(checkpoint, straight, precision="int4", threads=1)
    fault = Fault(monkeypatch, name, code)
    for at in range(1, 1000):
        fault.arm(at)
        try:
            export(checkpoint, target, precision="int4", threads=1)
        except ExportError as error:
            text = str(error)
            assert os.strerror(code) in text and text.isprintable() and len(text) < 400, text
            assert contents(target) == old
            kept = work_folder(target).exists()
            assert kept <= (code == errno.ENOSPC) and kept == ("are kept in" in text), (at, text)
        else:
            old = contents(straight)  # what fails after the last rename is tidying up
            assert contents(target) == old
            if fault.calls < at:
                break
    assert at > 1 and fault.calls < at, "every call was made to fail once"
    assert left_beside(target) == ["straight"]


def test_only_bundles_are_read_as_bundles(tmp_path: Path) -> None:
    with interrupted(tmp_path / "bundle", {"a": 1}) as work:
        for folder in (work, work / "bundle", tmp_path / "bundle"):
            with pytest.raises(ManifestError):
                read_manifest(folder)

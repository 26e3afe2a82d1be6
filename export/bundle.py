"""Writes a bundle into a work folder beside its target, with a journal, and publishes it by renaming.

Boundary: files, bytes and renames; knows nothing of graphs, and of tensors only their names. Guarantees, also after
`kill -9` or a power cut: the target is the old bundle, the new bundle or nothing; what was begun is finished by the
next export with the same key, or thrown away.

    .TARGET.export/bundle/         data files, graphs, tokenizer; the manifest comes last
    .TARGET.export/journal.jsonl   the key, then one line for each weight whose bytes are on the disk
    .TARGET.export/previous/       the replaced bundle, between two renames
    .TARGET.export.lock            held while an export writes
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np

from ..runtime.errors import ExportError
from ..runtime.manifest import MANIFEST_NAME, FileRecord, Manifest, read_manifest, serialize, verify_files
from .durable import DataFile, append, sync_folder, write_file

HEADROOM = 64 << 20  # graphs, tokenizer, journal
HASHED_BYTES = 64 << 20  # larger files are weights
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

Range = tuple[str, int, int]


@dataclass(frozen=True)
class Entry:
    """One line of the journal: a weight whose bytes (file, offset, length) are on the disk and hash to `sha256`."""

    weight: str
    ranges: tuple[Range, ...]
    sha256: str
    report: Mapping[str, Any] | None


class WriteLock:
    """Held by the one process that writes a bundle."""

    def __init__(self, output: Path) -> None:
        self._output = output
        work = work_folder(output)
        self._path = work.with_name(f"{work.name}.lock")
        self._lock = filelock.FileLock(self._path)

    def acquire(self) -> None:
        """Raises ExportError where another process writes to the bundle, OSError where the disk refuses."""
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise ExportError(
                f"{self._output}: another export is writing to it: wait for it to end, or choose another folder"
            ) from error

    def release(self) -> None:
        """Let others write."""
        # removed while held: a process that opened the old file sees that it lost its name and tries again
        self._path.unlink(missing_ok=True)
        self._lock.release()


@contextlib.contextmanager
def changing(bundle: Path) -> Iterator[Manifest]:
    """The manifest of a published bundle that nobody else writes to meanwhile, its small files checked.

    Raises BundleError for what is wrong with it, ExportError for what the disk refuses.
    """
    lock = WriteLock(Path(os.path.realpath(bundle)))
    try:
        read_manifest(bundle)
        lock.acquire()
        try:
            manifest = read_manifest(bundle)
            verify_files(bundle, manifest, below=HASHED_BYTES)
            yield manifest
        finally:
            lock.release()
    except OSError as error:
        raise ExportError(f"{error.filename or bundle}: {error.strerror}: {advice(error)}") from error


class Staging:
    """The folder in which one bundle grows. Use it as a context manager; `publish` makes it the bundle.

    Every method raises ExportError for what the disk refuses. Leaving without `publish` keeps the work folder only if
    the same export can go on from it: after an interruption or on a full disk, with at least one weight recorded.
    """

    def __init__(self, output: Path, key: str) -> None:
        self.output = Path(os.path.realpath(output))
        self.work = work_folder(self.output)
        self._bundle = self.work / "bundle"
        self._previous = self.work / "previous"
        self._journal = self.work / "journal.jsonl"
        self._lock = WriteLock(self.output)
        self._key = key
        self._files: dict[str, DataFile] = {}
        self._names: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._resumable = False

    def __enter__(self) -> Staging:
        with self._disk(self.output.parent):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        try:
            with self._disk(self.work):
                _restore(self._previous, self.output)
                _require_replaceable(self.output)
                self._open_work()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        stopped = self._resumable or isinstance(error, KeyboardInterrupt | SystemExit)
        if not (stopped and self._entries and self._bundle.is_dir()):
            self._discard()
        self._lock.release()

    def require_space(self, nbytes: int) -> None:
        """Check that the disk can take `nbytes` of weights beside what an interrupted export left, and the rest."""
        with self._disk(self._bundle):
            held = sum(_occupied(path) for path in self._bundle.iterdir())
            free = shutil.disk_usage(self._bundle).free
        needed = max(0, nbytes - held) + HEADROOM
        if free < needed:
            raise ExportError(
                f"{self.output.parent} has {_megabytes(free)} free, the bundle needs {_megabytes(needed)} more: "
                "free some space, or choose a folder on another disk"
            )

    def create_data(self, file: str, size: int) -> None:
        """Open or create a data file of `size` bytes."""
        with self._disk(self._bundle / file):
            self._files[file] = DataFile(self._bundle / file, size)
        self._names.add(file)

    def write(self, file: str, offset: int, array: np.ndarray) -> None:
        """Put the bytes of a C-ordered array into a data file; safe to call from several threads."""
        with self._disk(self._bundle / file):
            self._files[file].write(offset, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def finished(self, weight: str) -> Mapping[str, Any] | None:
        """The report of a weight that an interrupted export recorded and whose bytes are still those; else None."""
        entry = self._entries.get(weight)
        with self._disk(self._bundle):
            intact = entry is not None and self._digest(entry.ranges) == entry.sha256
        return entry.report if entry is not None and intact else None

    def record(self, weight: str, ranges: Sequence[Range], report: Mapping[str, Any] | None) -> None:
        """Note that all bytes of a weight are written: first they, then the note are made durable."""
        with self._disk(self.work):
            for file in {file for file, _, _ in ranges}:
                self._files[file].sync()
            entry = Entry(weight, tuple(ranges), self._digest(ranges), report)
            append(self._journal, _line(asdict(entry)))
        self._entries[weight] = entry

    def add_file(self, name: str, data: bytes) -> None:
        """Write one small file of the bundle."""
        with self._disk(self._bundle / name):
            write_file(self._bundle / name, data)
        self._names.add(name)

    def publish(self, manifest: Manifest) -> Manifest:
        """Hash every file, write the manifest and rename the folder to the target; returns the complete manifest."""
        with self._disk(self.output):
            for file in self._files.values():
                file.sync()
                file.close()
            for path in self._bundle.iterdir():
                if path.name not in self._names:  # left by an export that was killed while it wrote
                    path.unlink()
            files = {name: file_record(self._bundle / name) for name in sorted(self._names)}
            complete = replace(manifest, files=files)
            write_file(self._bundle / MANIFEST_NAME, serialize(complete))
            _swap(self._bundle, self.output, self._previous)
            self._entries.clear()
        return complete

    def _open_work(self) -> None:
        """Go on with what an export of the same key left, or begin anew."""
        kept, entries = _read_journal(self._journal, self._key)
        if entries and self._bundle.is_dir():
            os.truncate(self._journal, kept)
            self._entries = entries
            return
        self._discard()
        try:
            self._bundle.mkdir(parents=True)
            write_file(self._journal, _line({"key": self._key}))
            sync_folder(self.output.parent)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        """Remove the work folder, except for a replaced bundle that could not be put back."""
        with contextlib.suppress(OSError):
            _restore(self._previous, self.output)
        if not self._previous.is_dir():
            shutil.rmtree(self.work, ignore_errors=True)

    def _digest(self, ranges: Sequence[Range]) -> str:
        digest = hashlib.sha256()
        for file, offset, nbytes in ranges:
            self._files[file].feed(digest, offset, nbytes)
        return digest.hexdigest()

    @contextlib.contextmanager
    def _disk(self, path: Path) -> Iterator[None]:
        """Explain what the system refuses."""
        try:
            yield
        except OSError as error:
            self._resumable = error.errno in FULL
            kept = ""
            if self._resumable and self._entries:
                kept = f"; {len(self._entries)} weights are kept in {self.work}, the same command goes on from there"
            raise ExportError(f"{error.filename or path}: {error.strerror}: {advice(error)}{kept}") from error


def work_folder(output: Path) -> Path:
    """Where an unfinished export of this target lies."""
    target = Path(os.path.realpath(output))
    return target.with_name(f".{target.name}.export")


def _restore(previous: Path, output: Path) -> None:
    """Undo a replacement that was cut between its two renames."""
    if previous.is_dir() and not output.exists():
        os.rename(previous, output)
        sync_folder(output.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _require_replaceable(output: Path) -> None:
    """The target may be missing, an empty folder, or a bundle with nothing else in it."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ExportError(f"{output} is a file: choose another folder for the bundle")
    present = {path.name for path in output.iterdir()}
    if not present:
        return
    foreign = present - {MANIFEST_NAME}
    if MANIFEST_NAME in present:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            foreign -= json.loads((output / MANIFEST_NAME).read_bytes())["files"].keys()
    if foreign:
        raise ExportError(
            f"{output} holds {len(foreign)} files that no bundle wrote, {min(foreign)!r} among them: "
            "move them away, or choose another folder"
        )


def _swap(bundle: Path, output: Path, previous: Path) -> None:
    """Rename `bundle` to `output`, setting aside what was there; on failure `output` is what it was."""
    moved = False
    try:
        if output.is_dir() and any(output.iterdir()):
            os.rename(output, previous)
        os.rename(bundle, output)
        moved = True
        sync_folder(output.parent)
    except BaseException:  # Ctrl-C included: nobody should be left without the old bundle
        if moved:
            os.rename(output, bundle)
        if previous.is_dir() and not output.exists():
            os.rename(previous, output)
        raise


def _read_journal(path: Path, key: str) -> tuple[int, dict[str, Entry]]:
    """Bytes of the journal that hold, and its entries; a torn last line is not believed. (0, {}) for another key."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return 0, {}
    if not lines or lines[0] != _line({"key": key}):
        return 0, {}
    kept, entries = len(lines[0]), {}
    for line in lines[1:]:
        try:
            raw = json.loads(line)
            ranges = tuple((file, offset, nbytes) for file, offset, nbytes in raw["ranges"])
            entry = Entry(raw["weight"], ranges, raw["sha256"], raw["report"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        kept += len(line)
        entries[entry.weight] = entry
    return kept, entries


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"


def file_record(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _occupied(path: Path) -> int:
    """Bytes of the disk that a file holds; a sparse one holds fewer than it has."""
    status = path.stat()
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)


def advice(error: OSError) -> str:
    """What to do where the disk refuses to write."""
    if error.errno in FULL:
        return "free some space, or choose a folder on another disk"
    if error.errno in FORBIDDEN:
        return "choose a folder that you may write to"
    if error.errno == errno.EIO:
        return "the disk fails: check it, or choose a folder on another one"
    return "choose another folder"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB"

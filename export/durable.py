"""Bytes that have reached the disk: positional writes into one file, whole files, folders.

Boundary: paths and bytes; decides nothing. Every call that can fail because of the disk goes through `os` here and
raises OSError, which the caller explains.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

READ_BYTES = 1 << 20
_BINARY = getattr(os, "O_BINARY", 0)


class DataFile:
    """A file of known size that is filled in any order, from any thread. What it holds already is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o644)
        try:
            if os.fstat(self._fd).st_size != size:
                _reserve(self._fd, size)
        except BaseException:
            self.close()
            raise

    def write(self, offset: int, data: memoryview) -> None:
        """Put the bytes of `data` at `offset`."""
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            _write_all(self._fd, data)

    def sync(self) -> None:
        """Return when everything that was written is on the disk."""
        with self._lock:
            os.fsync(self._fd)

    def feed(self, digest: hashlib._Hash, offset: int, nbytes: int) -> None:
        """Hash the bytes of a range."""
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            while nbytes > 0 and (chunk := os.read(self._fd, min(nbytes, READ_BYTES))):
                digest.update(chunk)
                nbytes -= len(chunk)

    def close(self) -> None:
        """Give the file descriptor back; closing again does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file: afterwards it is there with exactly `data`, whatever happens; before, it is as it was."""
    scratch = path.with_name(f"{path.name}.tmp")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o644)
    try:
        _write_all(fd, memoryview(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(scratch, path)
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add `data` to the end of a file and return when it is on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | _BINARY)
    try:
        _write_all(fd, memoryview(data))
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Return when what another library wrote into a file is on the disk."""
    fd = os.open(path, os.O_RDWR | _BINARY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make renames and new files inside a folder durable."""
    if os.name == "nt":  # folders cannot be opened there; NTFS journals renames itself
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: memoryview) -> None:
    view = data.cast("B")
    while view:
        view = view[os.write(fd, view):]


def _reserve(fd: int, size: int) -> None:
    """Give the file its size and, where the system can, its blocks: a full disk shows now, not after an hour."""
    os.ftruncate(fd, size)
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)

"""Arrays on disk under 32-byte keys, bounded by bytes: what was used longest ago goes first.

Boundary: knows files, not what arrays mean. A file is written beside its place and renamed into it, and is believed
only where its size and SHA-256 agree, so a half-written, damaged or foreign file is one warning and a miss, and nothing
needs to be synced. Several processes may share a folder. Nothing here fails a caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
import struct
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RequestError

SUFFIX = ".edgephi"
STALE_SECONDS = 3600.0  # a file that was begun so long ago is never finished
_MAGIC = b"edgephi array 1\n"
# magic, key, dtype, up to four dimensions with 0 for those that there are not, SHA-256 of all that and of the values
_HEADER = struct.Struct("<16s32s8s4Q32s")
_CHECKED = _HEADER.size - 32
_DTYPES = {np.dtype(kind).str: np.dtype(kind) for kind in (np.float32, np.float16, np.int8, np.uint8)}
_SMALLEST = 4096  # bytes that any file takes
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class ArrayFiles:
    """A folder of arrays, at most `limit` bytes of them. Methods may be called from any thread."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Make the folder, for its owner alone, where it is not there. Raises RequestError where it cannot be used."""
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._warned = self._broken = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._bytes = sum(size for _, size, _ in self._files())
        except OSError as error:
            raise RequestError(
                f"the folder {folder} cannot keep a prefix cache ({error.strerror}): name one that can be written"
            ) from error
        self._remove_stale()

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder

    def read(self, key: bytes) -> np.ndarray | None:
        """The array under `key`, None where there is none or its file is damaged."""
        try:
            descriptor = os.open(self._path(key), _READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"{self._path(key)} cannot be read ({error.strerror})")
            return None
        try:
            with open(descriptor, "rb", buffering=0) as file:
                return _read(file, key)
        except (OSError, ValueError, MemoryError) as error:
            self._warn(f"{self._path(key)} is damaged or not a file of this cache ({error})")
            return None

    def write(self, key: bytes, array: np.ndarray) -> None:
        """Keep a C-contiguous `array` under `key`; what was there is replaced. A disk that fails ends all writing."""
        size, path = _HEADER.size + array.nbytes, self._path(key)
        if self._broken or size > self._limit:
            return
        begun = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        header = _HEADER.pack(_MAGIC, key, array.dtype.str.encode(), *_padded(array.shape), bytes(32))[:_CHECKED]
        try:
            self._make_room(size)
            with open(os.open(begun, _WRITE, 0o600), "wb", buffering=0) as file:
                values = array.data.cast("B")
                digest = hashlib.sha256(header)
                digest.update(values)
                file.write(header + digest.digest())
                written = 0
                while written < len(values):
                    written += file.write(values[written:])
            os.replace(begun, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                begun.unlink(missing_ok=True)
            self._broken = True
            self._warn(f"{self._folder} cannot be written ({error.strerror}), so nothing more is kept there")
            return
        with self._lock:
            self._bytes += max(size, _SMALLEST)

    def remove(self, keys: Iterable[bytes] | None) -> None:
        """Remove `keys`, None for everything; what cannot be removed is a warning."""
        kept: list[str] = []
        for path in self._all() if keys is None else map(self._path, keys):
            try:
                size = max(path.stat().st_size, _SMALLEST)
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                kept.append(f"{path} ({error.strerror})")
                continue
            with self._lock:
                self._bytes -= size
        if kept:  # every time: somebody relies on it that they are gone
            warnings.warn(
                f"prefix cache: {len(kept)} files cannot be removed and still hold what was to be forgotten: remove "
                f"{kept[0]}{' and the others of that folder' * (len(kept) > 1)} yourself",
                RuntimeWarning, stacklevel=2,
            )

    def holds(self, key: bytes) -> bool:
        """Whether there is a file of `key`."""
        return self._path(key).exists()

    def touch(self, keys: Sequence[bytes]) -> None:
        """Count `keys` as used now, the first of them as the youngest; says of none whether it is there."""
        now = time.time_ns()
        for age, key in enumerate(keys):
            with contextlib.suppress(OSError):
                os.utime(self._path(key), ns=(now - 1000 * age, now - 1000 * age))

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}{SUFFIX}"

    def _all(self) -> list[Path]:
        try:
            return [path for _, _, path in self._files()]
        except FileNotFoundError:  # the whole folder was removed meanwhile
            return []

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(time of last use, bytes, path) of every file that is named like ours."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not entry.name.endswith(SUFFIX) or len(entry.name) != 64 + len(SUFFIX):
                    continue
                with contextlib.suppress(OSError):  # another process removed it meanwhile
                    state = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(state.st_mode):
                        yield state.st_mtime_ns, max(state.st_size, _SMALLEST), Path(entry.path)

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until `size` bytes more fit, and a tenth of all, so that this is seldom."""
        with self._lock:
            if self._bytes + size <= self._limit:
                return
            files = sorted(self._files())  # anew: other processes write, too
            self._bytes = sum(taken for _, taken, _ in files)
            for _, taken, path in files:
                if self._bytes + size <= self._limit - self._limit // 10:
                    return
                path.unlink(missing_ok=True)
                self._bytes -= taken

    def _remove_stale(self) -> None:
        for path in self._folder.glob(f".*{SUFFIX}.*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _warn(self, text: str) -> None:
        """Once: a cache that is damaged in one place may be in thousands."""
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            warnings.warn(f"prefix cache: {text}; it is computed anew", RuntimeWarning, stacklevel=2)


def _read(file: Any, key: bytes) -> np.ndarray:
    """Raises ValueError that says what is wrong."""
    header = file.read(_HEADER.size)
    if len(header) != _HEADER.size or header[:16] != _MAGIC:
        raise ValueError("no header")
    _, found, kind, *dimensions, wanted = _HEADER.unpack(header)
    dtype, shape = _DTYPES.get(kind.rstrip(b"\0").decode("ascii", "replace")), [size for size in dimensions if size]
    if found != key or dtype is None:
        raise ValueError("another key or type")
    state = os.fstat(file.fileno())
    if not stat.S_ISREG(state.st_mode) or state.st_size != _HEADER.size + math.prod(shape) * dtype.itemsize:
        raise ValueError("another size")
    array = np.empty(shape, dtype)
    values, filled = array.data.cast("B"), 0
    while filled < len(values):
        count = file.readinto(values[filled:])
        if not count:
            raise ValueError("cut short")
        filled += count
    digest = hashlib.sha256(header[:_CHECKED])
    digest.update(values)
    if digest.digest() != wanted:
        raise ValueError("another checksum")
    return array


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Four dimensions; none of those that there are is 0."""
    assert 1 <= len(shape) <= 4 and all(shape)
    return (*shape, *(0,) * (4 - len(shape)))

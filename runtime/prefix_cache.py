"""Prompts that were read before, in this process or an earlier one, are not read again: their keys and values are kept.

Boundary: decides what is kept and under which key; array_store.py decides for how long, decode.py when.

A sequence is kept in blocks of BLOCK positions. The key of a block is a hash of everything that its keys and values
depend on: the files of the bundle, ONNX Runtime and device, rotary table and adapter, and all positions up to its end,
media by their content. So sequences that begin alike share their first blocks, and a key that is found fits.

Copying costs about a hundredth of computing, but twice the memory. A conversation alone is copied only when another one
is about to overwrite it; where other sessions or a later process could use it, as soon as it was read.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .array_files import ArrayFiles
from .array_store import ArrayStore
from .cache import KeyValueCache, Position
from .engine import RUNTIME
from .errors import RequestError
from .graphs import Interrupt
from .inputs import identity
from .manifest import Manifest
from .sampling import is_whole
from .user_files import cached

BLOCK = 64  # positions: less is computed again as fast as it is found
MEMORY_BYTES = 1 << 30  # 4,096 positions of Phi-4-mini
DISK_BYTES = 4 << 30
_REMEMBERED = 4096  # keys, before those of what is gone are let go
ROWS_BYTES = 256 << 20  # a picture of 36 crops takes about 110 MB at a width of 3072


class PrefixCache:
    """Keys, values and encoded media of any number of sessions and bundles. Methods may be called from any thread.

    In memory while a session uses it, on disk for good. What is on disk is as private as the prompts themselves.
    """

    def __init__(
        self, *, memory_bytes: int = MEMORY_BYTES, folder: str | Path | None = None, disk_bytes: int = DISK_BYTES
    ) -> None:
        """At most `memory_bytes` of keys and values; with a `folder` at most `disk_bytes` there, for later processes.

        Raises RequestError for a folder that cannot be used.
        """
        for name, value in (("memory_bytes", memory_bytes), ("disk_bytes", disk_bytes)):
            if not is_whole(value) or value < 0:
                raise RequestError(f"{name} is {value!r}; allowed is a whole number of bytes from 0 on")
        files = None if folder is None else ArrayFiles(Path(folder), disk_bytes)
        self.blocks = ArrayStore(memory_bytes, files)
        self.rows = ArrayStore(ROWS_BYTES, files)
        self._lock = threading.Lock()
        self._users: weakref.WeakSet[Prefixes] = weakref.WeakSet()

    def clear(self) -> None:
        """Forget everything: of all sessions and bundles, in memory and, where there is a folder, on disk."""
        for store in (self.blocks, self.rows):
            store.forget(None)

    def shared(self, user: Prefixes) -> bool:
        """Whether somebody else could use what `user` keeps."""
        with self._lock:
            return self.blocks.persistent or any(
                other is not user and other.bundle == user.bundle for other in self._users
            )

    def join(self, user: Prefixes) -> None:
        """Count a user."""
        with self._lock:
            self._users.add(user)

    def leave(self, user: Prefixes) -> None:
        """A user is gone: wait until all is on disk; the last one takes what is in memory along."""
        with self._lock:
            self._users.discard(user)
            last = not self._users
        for store in (self.blocks, self.rows):
            store.flush()
            if last:
                store.clear()


class Prefixes:
    """The part of a cache that one loaded bundle may use."""

    def __init__(self, cache: PrefixCache, manifest: Manifest, device: str) -> None:
        self._cache = cache
        files = sorted((name, file.sha256) for name, file in manifest.files.items())
        self.bundle = hashlib.sha256(repr((RUNTIME, device, files)).encode()).digest()
        self._used = set[bytes]()  # keys of what was kept or found here
        self._using = threading.Lock()  # encoders and decoder may work at once
        self._most_remembered = _REMEMBERED
        cache.join(self)

    def rows(self, content: str) -> np.ndarray | None:
        """What an encoder made of a medium, float (tokens, hidden), read-only."""
        key = self._rows_key(content)
        self._use([key])
        return self._cache.rows.get(key)

    def keep_rows(self, content: str, rows: np.ndarray) -> None:
        """Keep what an encoder made."""
        key = self._rows_key(content)
        self._use([key])
        self._cache.rows.put(key, lambda: np.ascontiguousarray(rows))

    def forget_rows(self) -> None:
        """Give the memory of encoded media back."""
        self._cache.rows.clear()

    def forget(self, live: KeyValueCache) -> None:
        """Forget what was kept or found for this bundle's user, the sequence in `live` and media included.

        What others keep of the same beginnings is gone, too: it says the same.
        """
        keys = self._used | set(self._keys(live, live.positions))
        for store in (self._cache.blocks, self._cache.rows):
            store.forget(keys)
        self._used.clear()

    def save(self, live: KeyValueCache, shared: int) -> None:
        """Keep the sequence in `live`, of which only the first `shared` positions stay."""
        if len(live) - max(shared, live.kept) >= BLOCK:
            self._publish(live)

    def share(self, live: KeyValueCache) -> None:
        """Keep the sequence in `live` where somebody else could use it."""
        if len(live) - live.kept >= BLOCK and self._cache.shared(self):
            self._publish(live)

    def fetch(self, live: KeyValueCache, sequence: Sequence[Position], interrupt: Interrupt) -> None:
        """Make `live`, which holds a beginning of `sequence` under its regime, hold as much of it as is kept.

        Raises Interrupted and ContextOverflow; `live` is consistent then, too.
        """
        first = len(live) // BLOCK
        if not self._cache.blocks.keeps or len(sequence) < (first + 1) * BLOCK:
            return
        keys = list(self._keys(live, sequence))
        for index in range(first, len(keys)):
            interrupt.check()
            block = self._cache.blocks.get(keys[index])
            if block is None:
                break
            if index == first:
                live.reserve(len(sequence))
            start, stop = len(live), (index + 1) * BLOCK
            live.append(block[:, :, start - stop :], sequence[start:stop])
            if live.kept >= index * BLOCK:
                live.kept = stop
        if len(live) >= (first + 1) * BLOCK:
            found = keys[: len(live) // BLOCK]
            self._use(found)
            self._cache.blocks.touch(found)

    def close(self) -> None:
        """Wait until what was kept is on disk."""
        self._cache.leave(self)

    def _publish(self, live: KeyValueCache) -> None:
        if not self._cache.blocks.keeps:
            return
        keys = list(self._keys(live, live.positions))
        self._use(keys)
        for index in reversed(range(live.kept // BLOCK, len(keys))):
            self._cache.blocks.put(keys[index], partial(live.copy, index * BLOCK, (index + 1) * BLOCK))
        # A block is of use only with those before it, so these are to go last.
        self._cache.blocks.touch(keys)
        live.kept = len(keys) * BLOCK

    def _keys(self, live: KeyValueCache, sequence: Sequence[Position]) -> Iterator[bytes]:
        """The key of each whole block of `sequence`."""
        key = hashlib.sha256(self.bundle + repr((live.shape, live.regime, BLOCK)).encode()).digest()
        for end in range(BLOCK, len(sequence) + 1, BLOCK):
            key = hashlib.sha256(key + identity(sequence[end - BLOCK : end])).digest()
            yield key

    def _use(self, keys: Sequence[bytes]) -> None:
        """Remember `keys`; those of what is gone by itself are let go from time to time."""
        with self._using:
            self._used.update(keys)
            if len(self._used) > self._most_remembered:
                stores = (self._cache.blocks, self._cache.rows)
                self._used = {key for key in self._used if any(store.holds(key) for store in stores)}
                self._used.update(keys)  # to be kept in a moment
                self._most_remembered = max(_REMEMBERED, 2 * len(self._used))

    def _rows_key(self, content: str) -> bytes:
        return hashlib.sha256(self.bundle + b"rows" + content.encode()).digest()


_open: dict[Path | None, PrefixCache] = {}
_opening = threading.Lock()


def find(wanted: PrefixCache | str | Path | bool | None) -> PrefixCache:
    """The cache that a session asks for.

    None: the one in memory that all sessions of this process share; True: the one that is on disk as well, in the
    user's cache folder; a path: the one in that folder; False: none. Raises RequestError.
    """
    if isinstance(wanted, PrefixCache):
        return wanted
    if wanted is False:
        return PrefixCache(memory_bytes=0)
    if wanted is True:
        wanted = cached("prefixes")
    folder = None if wanted is None else Path(wanted).absolute()
    with _opening:
        if folder not in _open:
            _open[folder] = PrefixCache(folder=folder)
        return _open[folder]

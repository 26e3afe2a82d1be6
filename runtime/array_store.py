"""Arrays in memory under 32-byte keys, the ones used last for as long as their bytes fit, and on disk where asked for.

Boundary: knows bytes and the order of use, not what arrays mean. For any number of threads: what is given out is never
written again, and stays with its taker when it is evicted.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set

import numpy as np

from .array_files import ArrayFiles


class ArrayStore:
    """At most `limit` bytes of arrays in memory; all of them in `files`, too, written by a thread of its own."""

    def __init__(self, limit: int, files: ArrayFiles | None = None) -> None:
        self._limit = limit
        self._files = files
        self._lock = threading.Lock()
        self._arrays: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._writer = None if files is None else _Writer(files)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self._bytes

    @property
    def keeps(self) -> bool:
        """Whether anything can be kept at all."""
        return self._limit > 0 or self._files is not None

    @property
    def persistent(self) -> bool:
        """Whether what is kept outlives the process."""
        return self._files is not None

    def get(self, key: bytes) -> np.ndarray | None:
        """The array under `key`, not to be written; it becomes the youngest."""
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
                return array
        array = None if self._files is None else self._files.read(key)
        if array is not None:
            self._insert(key, array)
        return array

    def put(self, key: bytes, make: Callable[[], np.ndarray]) -> None:
        """Keep what `make` gives, C-contiguous, never to be written again; nothing is made where `key` is kept."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return
        try:
            array = make()
        except MemoryError:  # what a cache takes is what is to spare
            self.clear()
            return
        if self._writer is not None:
            self._writer.write(key, array)
        self._insert(key, array)

    def touch(self, keys: Sequence[bytes]) -> None:
        """Count those of `keys` that are kept as used now, the first of them as the youngest."""
        with self._lock:
            for key in reversed(keys):
                if key in self._arrays:
                    self._arrays.move_to_end(key)
        if self._writer is not None:
            self._writer.touch(keys)

    def clear(self) -> None:
        """Forget what is in memory."""
        with self._lock:
            self._arrays.clear()
            self._bytes = 0

    def forget(self, keys: Set[bytes] | None) -> None:
        """Forget `keys`, None for everything, in memory and on disk; they are gone when this returns."""
        if keys is None:
            self.clear()
        else:
            with self._lock:
                for key in keys & self._arrays.keys():
                    self._bytes -= self._arrays.pop(key).nbytes
        if self._files is not None:
            self.flush()  # what is still to be written would come back
            self._files.remove(keys)

    def holds(self, key: bytes) -> bool:
        """Whether something is kept under `key`."""
        return key in self._arrays or (self._files is not None and self._files.holds(key))

    def flush(self) -> None:
        """Wait until everything is on disk."""
        if self._writer is not None:
            self._writer.flush()

    def _insert(self, key: bytes, array: np.ndarray) -> None:
        array.flags.writeable = False
        with self._lock:
            if key in self._arrays or array.nbytes > self._limit:
                return
            self._arrays[key] = array
            self._bytes += array.nbytes
            while self._bytes > self._limit:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= oldest.nbytes


class _Writer:
    """Writes in the order of the calls, in a thread that lives from the first one to `flush`."""

    def __init__(self, files: ArrayFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def write(self, key: bytes, array: np.ndarray) -> None:
        self._do(lambda: self._files.write(key, array))

    def touch(self, keys: Sequence[bytes]) -> None:
        self._do(lambda: self._files.touch(keys))

    def flush(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(None)
                thread.join()

    def _do(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgephi-prefix-cache", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

"""safetensors shards: headers checked before anything else, rows read and widened to float32 on demand.

Boundary: knows files, names, shapes and dtypes, not models. Rows are read with plain reads, not through a memory map:
a file that shrinks under an export is then an error instead of a dead process, and no page of a shard counts as memory.
Format: https://github.com/huggingface/safetensors, "Format" (an 8-byte header length, a JSON header, the data).
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import FileIO
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from ..runtime.errors import WeightMismatch
from ..runtime.manifest import parse_object
from ..runtime.manifest_types import printable

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ADAPTER_NAME = "adapter_model.safetensors"
MAXIMUM_HEADER = 32 << 20
MAXIMUM_INDEX = 64 << 20
MAXIMUM_RANK = 8
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16), "F16": np.dtype("<f2"), "F32": np.dtype("<f4"),
}

ADVICE = "fetch the checkpoint again"
SHOWN = 6
SAMPLES = 64
SAMPLE_BYTES = 4096

_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth")

R = TypeVar("R")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `offset` counts bytes from the start of `shard`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    shard: Path
    offset: int
    nbytes: int


class Shard:
    """One open file. Reads may come from several threads."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file
        self._lock = threading.Lock()

    def size(self) -> int:
        """Bytes of the file."""
        return self._guard(lambda: self._file.seek(0, 2))

    def read(self, offset: int, nbytes: int) -> np.ndarray:
        """uint8 (nbytes,). Raises WeightMismatch where the file ends early or the disk fails."""
        buffer = np.empty(nbytes, np.uint8)
        done = self._guard(lambda: self._fill(buffer.data, offset))
        if done != nbytes:
            raise WeightMismatch(f"{self.path} ends at byte {offset + done}, {offset + nbytes} are needed: {ADVICE}")
        return buffer

    def changed(self) -> int:
        """Time of the last change in nanoseconds."""
        return self.path.stat().st_mtime_ns

    def _fill(self, view: memoryview, offset: int) -> int:
        done = 0
        self._file.seek(offset)
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                break
            done += count
        return done

    def _guard(self, action: Callable[[], R]) -> R:
        try:
            with self._lock:
                return action()
        except OSError as error:
            raise WeightMismatch(f"{self.path} cannot be read ({error.strerror}): {ADVICE}") from error


class Checkpoint:
    """An open checkpoint folder; every header is already checked. Use it as a context manager."""

    def __init__(self, folder: Path, shards: Mapping[Path, Shard], tensors: Mapping[str, TensorInfo], stack: ExitStack):
        self.folder = folder
        self.config_path = folder / CONFIG_NAME
        self.tensors: Mapping[str, TensorInfo] = dict(tensors)
        self._shards = dict(shards)
        self._stack = stack

    def include(self, folders: Sequence[str]) -> None:
        """Open the adapters in these folders of the checkpoint too; each of their tensors is named `folder.name`.

        Raises WeightMismatch as `open_checkpoint` does.
        """
        tensors = dict(self.tensors)
        for folder in folders:
            path = self.folder / folder / ADAPTER_NAME
            self._shards[path] = _open(path, self._stack)
            for info in _read_header(self._shards[path]):
                tensors[f"{folder}.{info.name}"] = replace(info, name=f"{folder}.{info.name}")
        self.tensors = tensors

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """float32 (stop - start, ...) rows of a tensor. Raises WeightMismatch as `read` does."""
        shape = self.tensors[name].shape
        width = prod(shape[1:])
        return self.read(name, start * width, stop * width).reshape(stop - start, *shape[1:])

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """float32 (stop - start,): elements of a tensor in their order.

        Raises WeightMismatch for NaN or infinity, naming the first, and for a file that cannot be read.
        """
        info = self.tensors[name]
        dtype = DTYPES[info.dtype]
        nbytes = (stop - start) * dtype.itemsize
        raw = self._shards[info.shard].read(info.offset + start * dtype.itemsize, nbytes)
        values: np.ndarray = raw.view(dtype).astype(np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            first = int(np.argmin(finite))
            index = [int(axis) for axis in np.unravel_index(start + first, info.shape)]
            raise WeightMismatch(
                f"{info.shard}: tensor {name} holds {values[first]} at {index}; weights must be finite: "
                f"{ADVICE}, or repair the tensor"
            )
        return values

    def identity(self) -> str:
        """A cheap fingerprint: the headers, sizes and change times, a few blocks of every shard and config.json."""
        digest = hashlib.sha256(self.config_path.read_bytes())
        for path, shard in sorted(self._shards.items()):
            size = shard.size()
            digest.update(f"{path.name} {size} {shard.changed()}\n".encode())
            for part in range(SAMPLES):
                offset = max(0, size - SAMPLE_BYTES) * part // (SAMPLES - 1)
                digest.update(shard.read(offset, min(SAMPLE_BYTES, size - offset)).data)
        for info in sorted(self.tensors.values(), key=lambda item: item.name):
            digest.update(f"{info}\n".replace(str(info.shard), info.shard.name).encode())
        return digest.hexdigest()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open every shard of a local checkpoint folder and check all headers; no weight is read yet.

    Raises WeightMismatch for damaged, missing, pickled or hostile files.
    """
    placed = _index(folder)
    with ExitStack() as stack:
        shards: dict[Path, Shard] = {}
        tensors: dict[str, TensorInfo] = {}
        for path in sorted({*placed.values()} if placed else {folder / SINGLE_NAME}):
            shards[path] = _open(path, stack)
            for info in _read_header(shards[path]):
                if info.name in tensors:
                    first = tensors[info.name].shard
                    raise WeightMismatch(f"tensor {info.name} lies in {first} and in {path}: {ADVICE}")
                tensors[info.name] = info
        if placed:
            _check_index(folder, placed, tensors)
        return Checkpoint(folder, shards, tensors, stack.pop_all())


def open_adapter(folder: Path) -> Checkpoint:
    """Open the one file of a PEFT adapter as `open_checkpoint` opens shards, with the same errors."""
    with ExitStack() as stack:
        shard = _open(folder / ADAPTER_NAME, stack)
        tensors = {info.name: info for info in _read_header(shard)}
        return Checkpoint(folder, {shard.path: shard}, tensors, stack.pop_all())


def _open(path: Path, stack: ExitStack) -> Shard:
    try:
        return Shard(path, stack.enter_context(FileIO(path)))
    except OSError as error:
        raise WeightMismatch(f"{path} cannot be opened ({error.strerror}): {ADVICE}") from error


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name → shard by the index file; empty for a checkpoint of one file."""
    path = folder / INDEX_NAME
    if not path.is_file():
        if (folder / SINGLE_NAME).is_file():
            return {}
        pickles = sorted(item.name for pattern in _PICKLES for item in folder.glob(pattern))
        found = f"only {pickles[0]}, a pickle file, which can run code and is never opened" if pickles else "neither"
        raise WeightMismatch(
            f"{folder}: {SINGLE_NAME} or {INDEX_NAME} is needed, found {found}: "
            "give a checkpoint folder in safetensors format"
        )
    if path.stat().st_size > MAXIMUM_INDEX:
        raise WeightMismatch(f"{path} is larger than the {MAXIMUM_INDEX} bytes that are allowed: {ADVICE}")
    weight_map = parse_object(path.read_bytes(), str(path), WeightMismatch, ADVICE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightMismatch(f"{path}: weight_map must be an object with at least one tensor: {ADVICE}")
    hostile = [file for file in weight_map.values() if not isinstance(file, str) or not _SHARD_NAME.fullmatch(file)]
    if hostile:
        raise WeightMismatch(
            f"{path}: a tensor is placed in {printable(hostile[0])}; only *.safetensors files of the same folder "
            f"are allowed: {ADVICE}"
        )
    missing = sorted({file for file in weight_map.values() if not (folder / file).is_file()})
    if missing:
        raise WeightMismatch(f"{folder}: {len(missing)} shards are missing: {_listed(missing)}: {ADVICE}")
    return {name: folder / file for name, file in weight_map.items()}


def _check_index(folder: Path, placed: Mapping[str, Path], tensors: Mapping[str, TensorInfo]) -> None:
    problems = {
        "named by the index but in no shard": sorted(printable(name) for name in placed.keys() - tensors.keys()),
        "in a shard but not named by the index": sorted(tensors.keys() - placed.keys()),
        "in another shard than the index says": sorted(
            name for name, info in tensors.items() if name in placed and placed[name] != info.shard
        ),
    }
    found = [f"{len(names)} tensors {what}: {_listed(names)}" for what, names in problems.items() if names]
    if found:
        raise WeightMismatch(f"{folder / INDEX_NAME}: {'; '.join(found)}: {ADVICE}")


def _read_header(shard: Shard) -> list[TensorInfo]:
    """The tensors of one file, in file order; they cover its data without gap or overlap."""
    size = shard.size()
    if size < 8:
        raise WeightMismatch(f"{shard.path} has {size} bytes, a safetensors file has at least 8: {ADVICE}")
    (length,) = struct.unpack("<Q", shard.read(0, 8).tobytes())
    if length > min(MAXIMUM_HEADER, size - 8):
        raise WeightMismatch(
            f"{shard.path}: its header should have {length} bytes, the file has {size} and {MAXIMUM_HEADER} are "
            f"allowed: {ADVICE}"
        )
    header = parse_object(shard.read(8, length).tobytes(), f"{shard.path} header", WeightMismatch, ADVICE)
    header.pop("__metadata__", None)
    tensors = [_tensor(shard.path, name, entry, 8 + length) for name, entry in header.items()]
    # an empty tensor may share its start with the one behind it: the shorter one comes first
    tensors.sort(key=lambda info: (info.offset, info.nbytes))
    end, before = 8 + length, "the header"
    for info in tensors:
        if info.offset != end:
            kind = "overlaps" if info.offset < end else "leaves a gap after"
            raise WeightMismatch(f"{shard.path}: tensor {info.name} {kind} {before}: {ADVICE}")
        end, before = info.offset + info.nbytes, f"tensor {info.name}"
    if end != size:
        found = "was cut" if size < end else "has trailing bytes"
        raise WeightMismatch(f"{shard.path} {found}: its tensors end at byte {end}, the file has {size}: {ADVICE}")
    return tensors


def _tensor(path: Path, name: str, entry: object, start: int) -> TensorInfo:
    def refuse(found: str) -> WeightMismatch:
        return WeightMismatch(f"{path}: tensor {printable(name)} {found}: {ADVICE}")

    if not _TENSOR_NAME.fullmatch(name):
        raise refuse("has a name that is not allowed (1 to 256 letters, digits, '_', '.', '-')")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refuse("must have exactly dtype, shape and data_offsets")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(shape, list) or len(shape) > MAXIMUM_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise refuse(f"has the shape {printable(shape)}; at most {MAXIMUM_RANK} counts are allowed")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise refuse(f"has the data_offsets {printable(offsets)}; two counts are needed")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightMismatch(
            f"{path}: tensor {name} is of dtype {printable(dtype)}, {', '.join(DTYPES)} can be exported: "
            "use the checkpoint as published, not one that is already quantized"
        )
    nbytes = prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise refuse(f"of shape {shape} and dtype {dtype} needs {nbytes} bytes, its data_offsets are {offsets}")
    return TensorInfo(name, tuple(shape), dtype, path, start + offsets[0], nbytes)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"

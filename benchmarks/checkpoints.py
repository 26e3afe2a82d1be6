"""Checkpoints of random weights, published layout, full size: what an export costs does not depend on the values.

Boundary: writes a folder of bfloat16 safetensors shards with index, configuration and a stand-in tokenizer; memory is
bounded by one chunk of rows. Format: https://github.com/huggingface/safetensors, "Format". The same shape and seed give
the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgephi.runtime.errors import RequestError

from . import stand_in
from .published import Model

CHUNK_ELEMENTS = 1 << 22
SHARD_BYTES = 5_000_000_000  # as transformers cuts them
BFLOAT16_BYTES = 2
HEADROOM = 64 << 20

STANDARD_DEVIATION = 0.02
OUTLIER_SHARE, OUTLIER_FACTOR = 1 / 512, 6.0
NORM_SPREAD = 0.2

Progress = Callable[[str, int, int], None]


def write(model: Model, folder: Path, seed: int = 0, progress: Progress | None = None) -> int:
    """Write a checkpoint of random weights; returns the bytes of its tensors.

    Matrices, kernels and biases are normal with a standard deviation of 0.02, one input column in 512 six times wider;
    norms are log-normal around 1. `progress(tensor, done, total)` counts bytes. Raises RequestError if the folder is
    not empty or the disk too small; an interruption leaves only a folder with the suffix `.partial`, which the next
    call replaces.
    """
    tensors = model.tensors()
    total = sum(prod(size) for size in tensors.values()) * BFLOAT16_BYTES
    _require_room(folder, total)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    done = 0
    shards = _shards(tensors)
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        with (partial / name).open("wb") as file:
            file.write(safetensors_header({tensor: tensors[tensor] for tensor in shard}))
            for tensor in shard:
                for chunk in _rows(tensor, tensors[tensor], seed):
                    file.write(chunk.data)
                    done += chunk.nbytes
                    if progress is not None:
                        progress(tensor, done, total)
    where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    _write_json(partial / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    _write_json(partial / "config.json", model.config())
    _write_json(partial / "generation_config.json", model.generation_config())
    stand_in.write(model, partial)
    if folder.is_dir():
        folder.rmdir()
    os.rename(partial, folder)
    return total


def _require_room(folder: Path, nbytes: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} exists and is not an empty folder: choose another one, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < nbytes + HEADROOM:
        raise RequestError(
            f"{folder.parent} has {free / 1e9:.2f} GB free, the checkpoint needs {(nbytes + HEADROOM) / 1e9:.2f} GB: "
            "free some space, choose another disk, or ask for fewer layers"
        )


def _shards(tensors: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """Names in order, cut so that no shard of several tensors is larger than SHARD_BYTES."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in tensors.items():
        nbytes = prod(shape) * BFLOAT16_BYTES
        if shards[-1] and filled + nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    return shards


def safetensors_header(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """What stands before the bytes of bfloat16 tensors of these shapes, one behind the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + prod(shape) * BFLOAT16_BYTES
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _rows(name: str, shape: tuple[int, ...], seed: int) -> Iterator[np.ndarray]:
    """The tensor as uint16 arrays of bfloat16 bits, chunk by chunk; values do not depend on the size of a chunk."""
    generator = np.random.default_rng((seed, zlib.crc32(name.encode())))
    if len(shape) == 1 and not name.endswith("bias"):
        yield bfloat16_bits(np.exp(NORM_SPREAD * generator.standard_normal(shape, np.float32)))
        return
    width = prod(shape[1:])
    columns = np.where(generator.random(width) < OUTLIER_SHARE, OUTLIER_FACTOR, 1.0) * STANDARD_DEVIATION
    scale = columns.astype(np.float32)
    step = max(1, CHUNK_ELEMENTS // width)
    for start in range(0, shape[0], step):
        chunk = generator.standard_normal((min(step, shape[0] - start), width), np.float32)
        chunk *= scale
        yield bfloat16_bits(chunk)


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float32 → the upper half of its bits, rounded to nearest, ties to even: uint16. Finite values only."""
    bits = values.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    halves: np.ndarray = (rounded >> np.uint32(16)).astype(np.uint16)
    return halves


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

"""Reads checkpoints, and copies some of the layers of one into another, tensor by tensor. Imports nothing but numpy.

Boundary: the published layout of safetensors (https://github.com/huggingface/safetensors, "Format"); whatever belongs
to no layer is copied along, and so are all other small files.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

_LAYER = re.compile(r"(?<=model\.layers\.)\d+(?=\.)")
_CHUNK = 16 << 20


def config(checkpoint: Path) -> dict[str, Any]:
    """config.json."""
    settings: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return settings


def count(checkpoint: Path) -> int:
    """Layers of a checkpoint."""
    layers: int = config(checkpoint)["num_hidden_layers"]
    return layers


def take(checkpoint: Path | str, target: Path | str, first: int, layers: int) -> None:
    """Write layers `first` … `first + layers - 1` of `checkpoint`, numbered from 0, to the folder `target`."""
    checkpoint, target = Path(checkpoint), Path(target)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.is_file() and not path.name.startswith("model"):
            shutil.copyfile(path, partial / path.name)
    settings = config(checkpoint) | {"num_hidden_layers": layers}
    (partial / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    tensors = {}
    for shard in sorted(checkpoint.glob("model*.safetensors")):
        for name, (entry, offset) in _header(shard).items():
            number = _LAYER.search(name)
            if number is None or first <= int(number[0]) < first + layers:
                renamed = name if number is None else _LAYER.sub(str(int(number[0]) - first), name)
                tensors[renamed] = (entry, shard, offset)
    _write(partial / "model.safetensors", tensors)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def bits(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and bits (uint16, in the tensor's shape) of every bfloat16 tensor, mapped from its file."""
    import numpy as np

    for shard in sorted(checkpoint.glob("model*.safetensors")):
        for name, (entry, offset) in _header(shard).items():
            if entry["dtype"] != "BF16":
                raise ValueError(f"{shard}: {name} is {entry['dtype']}, not BF16")
            yield name, np.memmap(shard, np.uint16, "r", offset, tuple(entry["shape"]))


def _header(shard: Path) -> dict[str, tuple[dict[str, Any], int]]:
    """Name → entry and where its bytes begin in the file."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(length))
    return {
        name: (entry, 8 + length + entry["data_offsets"][0])
        for name, entry in entries.items() if name != "__metadata__"
    }


def _write(path: Path, tensors: dict[str, tuple[dict[str, Any], Path, int]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (entry, _, _) in tensors.items():
        start, end = end, end + entry["data_offsets"][1] - entry["data_offsets"][0]
        header[name] = {"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry, shard, offset in tensors.values():
            with shard.open("rb") as source:
                source.seek(offset)
                copy(source, file, entry["data_offsets"][1] - entry["data_offsets"][0])


def copy(source: BinaryIO, target: BinaryIO, nbytes: int) -> None:
    """Copy so many bytes from where `source` stands."""
    while nbytes:
        chunk = source.read(min(nbytes, _CHUNK))
        if not chunk:
            raise EOFError(f"{source.name} ends {nbytes} bytes too early")
        target.write(chunk)
        nbytes -= len(chunk)

"""The text part of the demo's checkpoint, with more layers: its own, which are trained, and quiet copies of them
between.

Boundary: reads and writes safetensors in bfloat16. A copy adds a small share of what its original adds, so the deeper
model still knows the demo's tasks, and its tokens are no draws between equals as those of random weights are.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from edgephi.demo import architecture
from edgephi.runtime.errors import RequestError

from .checkpoints import bfloat16_bits, safetensors_header

QUIET = 2.0**-6  # of what a copied layer adds; a power of two, so every bfloat16 stays one
ADDED = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
ENCODERS = "embed_tokens_extend"


def write(folder: Path, layers: int) -> None:
    """Write it with so many layers to a new `folder`. Raises RequestError for fewer than it has."""
    own = architecture.DEMO.layers
    if layers < own:
        raise RequestError(f"the demo has {own} layers, {layers} were asked for: ask for more")
    with as_file(files("edgephi.demo") / "checkpoint") as shipped:
        shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("*-lora"))
    config = architecture.config(dataclasses.replace(architecture.DEMO, layers=layers))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {name: bits for name, bits in _read(folder / WEIGHTS).items() if ENCODERS not in name}
    made = {name: bits for name, bits in tensors.items() if ".layers." not in name}
    for layer in range(layers):
        original = layer * own // layers
        loud = layer == -(-original * layers // own)  # the first place of each original
        prefix = f"model.layers.{original}."
        for name in [name for name in tensors if name.startswith(prefix)]:
            part = name.removeprefix(prefix)
            bits = tensors[name] if loud or part not in ADDED else _scaled(tensors[name], QUIET)
            made[f"model.layers.{layer}.{part}"] = bits
    _write(folder / WEIGHTS, made)


def _scaled(bits: np.ndarray, factor: float) -> np.ndarray:
    return bfloat16_bits((bits.astype(np.uint32) << np.uint32(16)).view(np.float32) * np.float32(factor))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Tensors as uint16 arrays of bfloat16 bits."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {
        name: np.frombuffer(data, np.uint16, (entry["data_offsets"][1] - entry["data_offsets"][0]) // 2,
                            8 + length + entry["data_offsets"][0]).reshape(entry["shape"])
        for name, entry in header.items() if name != "__metadata__"
    }


def _write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        file.write(safetensors_header({name: bits.shape for name, bits in tensors.items()}))
        for bits in tensors.values():
            file.write(np.ascontiguousarray(bits).data)

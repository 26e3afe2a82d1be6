"""Writes the model that sees and hears in the published layout: bfloat16 shards, the adapters in PEFT's folders.

Boundary: a trained model in, files out; knows nothing of training.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import architecture
from .media_model import MediaModel

_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE")


def write(
    model: MediaModel, base: Path, folder: Path, shape: architecture.Shape, media: architecture.MediaShape
) -> None:
    """Write the whole checkpoint; the tokenizer is the one of `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    tensors = {
        name.replace(".linear.weight", ".weight"): tensor
        for name, tensor in model.model.state_dict().items()
        if ".down." not in name and ".up." not in name and name != "lm_head.weight"
    }
    _save(tensors, folder / "model.safetensors")
    for adapter in architecture.ADAPTERS:
        path = folder / f"{adapter}-lora"
        path.mkdir(exist_ok=True)
        factors: dict[str, torch.Tensor] = {}
        for name, layer in model.adapted().items():
            stem = f"base_model.model.model.layers.{name}.lora_"
            factors |= {
                f"{stem}{factor}.weight": side.get_parameter(f"{adapter}.weight")
                for factor, side in (("A", layer.down), ("B", layer.up))
            }
        _save(factors, path / "adapter_model.safetensors")
        _write_json(path / "adapter_config.json", architecture.adapter_config(media))
    _write_json(folder / "config.json", architecture.media_config(shape, media))
    _write_json(folder / "generation_config.json", architecture.generation_config())


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    temporary = path.with_suffix(".part")
    stored = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(stored, temporary, metadata={"format": "pt"})
    os.replace(temporary, path)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

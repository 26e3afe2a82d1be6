"""Adapters added to a bundle against PEFT's own model of the same folder over transformers' model.

Two float32 implementations that add up in other orders differ by about 1e-6 of the range of the logits; the limit is
1e-4. Random adapters move the logits by a tenth of their range and more, which is asserted, so nothing passes unseen.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgephi
from edgephi.export.adapters import add_adapter

LIMIT = 1e-4
MOVED = 0.05
IDS = [int(token) for token in np.random.default_rng(3).integers(0, 384, 40)]
LINEARS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
SHAPES: dict[str, dict[str, Any]] = {
    "one": {"r": 1, "lora_alpha": 4, "target_modules": ["o_proj"]},
    "all": {"r": 16, "lora_alpha": 32, "target_modules": LINEARS},
    "wide": {"r": 80, "lora_alpha": 9, "use_rslora": True, "target_modules": ["qkv_proj", "down_proj"]},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": LINEARS, "rank_pattern": {"layers.1.mlp.down_proj": 24, "o_proj": 2},
        "alpha_pattern": {r".*\.0\..*qkv_proj": 40, "down_proj": 3},
    },
    "layer": {"r": 8, "lora_alpha": 16, "target_modules": ["gate_up_proj"], "layers_to_transform": [1]},
    "head": {"r": 8, "lora_alpha": 16, "target_modules": ["lm_head", "qkv_proj"]},
}


def make(model: Any, folder: Path, seed: int, **settings: Any) -> Any:
    """Save a random adapter for `model` in `folder` and return PEFT's model with it, as PEFT loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model

        made: Any = get_peft_model(copy.deepcopy(model), LoraConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in made.named_parameters():
                if "lora_" in name:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor.shape[1] ** -0.5)
        made.save_pretrained(folder)
        return PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def theirs(model: Any, ids: list[int] = IDS) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("variant", ["mini", "mini-untied"])
def test_logits_are_those_of_peft(
    tiny_bundle: Callable[..., Path], tiny_reference: Callable[..., Any], tmp_path: Path, variant: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle(variant), bundle)
    model = tiny_reference(variant)
    plain = theirs(model)
    expected = {}
    for seed, (name, settings) in enumerate(SHAPES.items()):
        expected[name] = theirs(make(model, tmp_path / name, seed, **settings))
        assert np.abs(expected[name] - plain).max() > MOVED * np.ptp(plain)
        add_adapter(bundle, tmp_path / name, name)
    with edgephi.load(bundle, threads=1) as phi:
        assert phi.adapters == tuple(sorted(SHAPES))
        for name in (None, *SHAPES, None):
            reference = plain if name is None else expected[name]
            error = np.abs(phi.logits(IDS, adapter=name) - reference).max() / np.ptp(reference)
            assert error <= LIMIT, name

"""transformers' own models of the tiny multimodal checkpoints, an adapter merged: what parity is measured against."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def multimodal_reference() -> Callable[..., Any]:
    """(folder of such a checkpoint, adapter name or None) → what `tiny_multimodal_reference` gives."""
    return _multimodal_reference


@pytest.fixture(scope="session")
def tiny_multimodal_reference(tiny_multimodal: Path) -> Callable[..., Any]:
    """(adapter name or None) → transformers' Phi4MultimodalForCausalLM in float32, the adapter merged into it."""
    made: dict[str | None, Any] = {}

    def make(adapter: str | None = None) -> Any:
        if adapter not in made:
            made[adapter] = _multimodal_reference(tiny_multimodal, adapter)
        return made[adapter]

    return make


def _multimodal_reference(folder: Path, adapter: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from safetensors.torch import load_file
        from transformers import Phi4MultimodalForCausalLM

        model: Any = Phi4MultimodalForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # With "sdpa" its image encoder is causal where no patch is masked, by its `is_causal`; SigLIP's never is.
    model.model.embed_tokens_extend.image_embed.img_processor.set_attn_implementation("eager")
    if adapter is not None:
        factors = load_file(folder / f"{adapter}-lora" / "adapter_model.safetensors")
        with torch.no_grad():
            for name, module in model.model.layers.named_modules():
                if isinstance(module, torch.nn.Linear):
                    stem = f"base_model.model.model.layers.{name}.lora_"
                    down, up = (factors[f"{stem}{factor}.weight"].float() for factor in "AB")
                    module.weight += 2.0 * up @ down  # alpha / rank is 2
    return model.eval()

"""Phi-4-reasoning-vision-15B as numbers: the decoder of Phi-4-reasoning with a SigLIP-2 encoder and a projector.

Boundary: facts of the published configuration and index (Phi4ForCausalLMV). Makes no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .multimodal import layer, siglip
from .shapes import Shape, Tensors

TOWER, PROJECTOR = "model.vision_tower.vision_tower.vision_model.", "model.mm_projector."
PATCH_VALUES, POSITIONS = 3 * 16 * 16, 16 * 16


@dataclass(frozen=True)
class ImageEncoder:
    """Sizes around the decoder of a Phi4ForCausalLMV; `inner` is the width of a feed-forward part."""

    width: int = 1152
    inner: int = 4304
    blocks: int = 27
    heads: int = 16

    def tensors(self, text: Shape) -> Tensors:
        """Name → shape of every tensor of a checkpoint with this decoder."""
        found = text.tensors() | layer(f"{TOWER}embeddings.patch_embedding", self.width, PATCH_VALUES)
        found[f"{TOWER}embeddings.position_embedding.weight"] = (POSITIONS, self.width)
        found |= siglip(TOWER, self.width, self.inner, self.blocks)
        for number, inputs in ((0, self.width), (2, text.hidden)):
            found |= layer(f"{PROJECTOR}{number}", text.hidden, inputs)
        return found

    def config(self, text: Shape) -> dict[str, Any]:
        """config.json of a checkpoint with this decoder."""
        return text.config() | {
            "architectures": ["Phi4ForCausalLMV"], "model_type": "phi4-siglip", "dtype": "bfloat16",
            "image_aspect_ratio": "square", "min_num_patches": 256, "max_num_patches": 3600,
            "mm_hidden_size": self.width, "mm_projector_type": "mlp2x_gelu",
            "mm_vision_tower": "google/siglip2-so400m-patch16-naflex", "tokenizer_model_max_length": 8192,
            "tokenizer_padding_side": "right", "unfreeze_vision_tower": True, "use_mm_proj": True, "use_s2": False,
            "vision_config": {
                "hidden_size": self.width, "intermediate_size": self.inner, "model_type": "siglip2_vision_model",
                "num_attention_heads": self.heads, "num_hidden_layers": self.blocks,
            },
        }

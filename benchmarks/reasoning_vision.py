"""Phi-4-reasoning-vision-15B as numbers: the decoder of Phi-4-reasoning with a SigLIP-2 encoder and a projector.

Boundary: facts of the published configuration and index (Phi4ForCausalLMV). Makes no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .multimodal import Tensors, layer, siglip
from .shapes import Chat, Shape

TOWER, PROJECTOR = "model.vision_tower.vision_tower.vision_model.", "model.mm_projector."
PATCH_VALUES, POSITIONS = 3 * 16 * 16, 16 * 16


@dataclass(frozen=True)
class ReasoningVisionShape:
    """A Phi4ForCausalLMV; `inner` is the width of the encoder's feed-forward part."""

    text: Shape
    width: int = 1152
    inner: int = 4304
    blocks: int = 27
    heads: int = 16

    @property
    def name(self) -> str:
        """Of the published model."""
        return self.text.name

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.text.vocabulary

    @property
    def context(self) -> int:
        """Largest number of tokens."""
        return self.text.context

    @property
    def chat(self) -> Chat:
        """Control tokens and template."""
        return self.text.chat

    def with_layers(self, layers: int) -> ReasoningVisionShape:
        """The same with so many layers of the decoder; the encoder stays whole."""
        return replace(self, text=self.text.with_layers(layers))

    def tensors(self) -> Tensors:
        """Name → shape of every tensor of the checkpoint."""
        found = self.text.tensors() | layer(f"{TOWER}embeddings.patch_embedding", self.width, PATCH_VALUES)
        found[f"{TOWER}embeddings.position_embedding.weight"] = (POSITIONS, self.width)
        found |= siglip(TOWER, self.width, self.inner, self.blocks)
        hidden = self.text.hidden
        return found | layer(f"{PROJECTOR}0", hidden, self.width) | layer(f"{PROJECTOR}2", hidden, hidden)

    def config(self) -> dict[str, Any]:
        """config.json."""
        return self.text.config() | {
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

    def generation_config(self) -> dict[str, Any]:
        """generation_config.json."""
        return self.text.generation_config()

"""The text decoder as config.json states it, the same for every family: its values, its weights' names, its shape.

Boundary: reads settings and names weights; the graph is made in decoder.py, checkpoint names are the families' own.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...runtime.errors import ConfigMismatch
from ...runtime.manifest import RotaryTable, TextModel
from ...runtime.providers.provider import Provider
from ..config import ConfigReader
from .attention import AttentionShape
from .decoder import FINAL_NORM, DecoderShape
from .rope import Rope, read_rope

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
LAYER = "model.layers.{layer}."
LINEARS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
ALONE = (EMBEDDING, FINAL_NORM)

_WITHOUT_EFFECT = (
    "_name_or_path", "architectures", "auto_map", "attention_dropout", "embd_pdrop", "resid_pdrop", "initializer_range",
    "torch_dtype", "dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
)


@dataclass(frozen=True)
class TextConfig:
    """The values of config.json that shape the decoder."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    sliding_window: int | None
    tied: bool
    rope: Rope

    @property
    def context_length(self) -> int:
        """Largest number of tokens of a sequence."""
        return self.rope.context_length

    def shape(self, embedding: str | None) -> DecoderShape:
        """The decoder that looks ids up in `embedding`, or that takes embeddings where it is None."""
        return DecoderShape(
            layers=self.layers, intermediate=self.intermediate, vocabulary=self.vocabulary, rope=self.rope,
            attention=AttentionShape(self.hidden, self.heads, self.kv_heads, self.head_dim, self.sliding_window),
            norm_epsilon=self.norm_epsilon, embedding=embedding, head=EMBEDDING if self.tied else HEAD,
        )


def read_text_config(raw: ConfigReader) -> TextConfig:
    """Read the decoder's part of config.json. Raises ConfigMismatch for a value that is not implemented."""
    raw.expect("hidden_act", "silu")
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        raw.expect(key, False, default=False)
    for key in ("full_attn_mod", "interpolate_factor"):
        raw.expect(key, 1, default=1)
    raw.ignore(*_WITHOUT_EFFECT)
    hidden, heads = raw.count("hidden_size"), raw.count("num_attention_heads")
    head_dim = raw.optional("head_dim", int, None) or hidden // heads
    kv_heads = raw.optional("num_key_value_heads", int, None) or heads
    if head_dim * heads != hidden or kv_heads < 1 or heads % kv_heads:
        raise ConfigMismatch(
            f"{raw.path}: {heads} heads of {head_dim} over {kv_heads} key/value heads do not divide a hidden size of "
            f"{hidden}; heads × head_dim must be the hidden size and key/value heads must divide heads: "
            "check the checkpoint"
        )
    rope = read_rope(raw, head_dim)
    if head_dim % 16 or rope.rotary_dim % 16:
        raise ConfigMismatch(
            f"{raw.path}: heads of {head_dim} with {rope.rotary_dim} rotary dimensions have no attention kernel; "
            "both must be multiples of 16: use a checkpoint of such a shape"
        )
    window = None if raw.optional("sliding_window", int, None) is None else raw.count("sliding_window")
    return TextConfig(
        vocabulary=raw.count("vocab_size"), hidden=hidden, intermediate=raw.count("intermediate_size"),
        layers=raw.count("num_hidden_layers"), heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        norm_epsilon=raw.require("rms_norm_eps", float),
        # a window of at least the context never hides anything
        sliding_window=window if window is not None and window < rope.context_length else None,
        tied=raw.optional("tie_word_embeddings", bool, False), rope=rope,
    )


def activations(provider: Provider) -> ir.DataType:
    """The dtype that the decoder computes in on a device."""
    return ir.DataType[{"float32": "FLOAT", "float16": "FLOAT16"}[provider.activation_dtype]]


def norm_feeding(config: TextConfig) -> dict[str, str]:
    """Inputs of these linears are normed: γ² of the norm is their expected squared size, column by column."""
    feeding: dict[str, str] = {}
    for layer in range(config.layers):
        prefix = LAYER.replace("{layer}", str(layer))
        feeding[f"{prefix}self_attn.qkv_proj.weight"] = f"{prefix}input_layernorm.weight"
        feeding[f"{prefix}mlp.gate_up_proj.weight"] = f"{prefix}post_attention_layernorm.weight"
    return feeding


def text_model(config: TextConfig, rotary_tables: tuple[RotaryTable, ...]) -> TextModel:
    """The decoder's shape as the manifest states it."""
    return TextModel(
        layers=config.layers, hidden_size=config.hidden, heads=config.heads, kv_heads=config.kv_heads,
        head_dim=config.head_dim, vocab_size=config.vocabulary, context_length=config.context_length,
        sliding_window=config.sliding_window, rotary=rotary_tables,
    )

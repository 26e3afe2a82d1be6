"""Phi3ForCausalLM: Phi-4-mini(-reasoning), Phi-4, Phi-4-reasoning(-plus), Phi-3.5-mini, Phi-3-mini.

One decoder for all of them: RMSNorm, fused qkv, rotary embedding of the whole head or a part of it (plain or LongRoPE),
grouped-query attention, optionally within a sliding window, and a gated silu feed-forward part; the LM head may be the
embedding. No biases anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...runtime.errors import ConfigMismatch
from ...runtime.manifest import RotaryTable, TextModel
from ...runtime.providers.provider import Provider
from ..config import ConfigReader
from ..layers.attention import AttentionShape
from ..layers.decoder import DecoderShape, text_graph
from ..layers.rope import Rope, Table, read_rope, tables
from ..weights import Rename, Rule, Tie
from . import PartPlan

NAME = "phi3"
ARCHITECTURES = ("Phi3ForCausalLM",)
CAPABILITIES = ("text",)
PARTS = {"text": PartPlan("text", "linear")}

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
LAYER = "model.layers.{layer}."

_WITHOUT_EFFECT = (
    "_name_or_path", "architectures", "auto_map", "attention_dropout", "embd_pdrop", "resid_pdrop", "initializer_range",
    "torch_dtype", "dtype", "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
)


@dataclass(frozen=True)
class Config:
    """The values of config.json that shape the model."""

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


TINY = Config(
    vocabulary=320, hidden=64, intermediate=96, layers=2, heads=4, kv_heads=2, head_dim=16, norm_epsilon=1e-5,
    sliding_window=None, tied=True, rope=Rope(10000.0, 12, 256, 64, (1.0,) * 6, (1.0, 1.5, 2.0, 4.0, 8.0, 16.0), 1.1),
)


def read(raw: ConfigReader) -> Config:
    """Read a published config.json. Raises ConfigMismatch for a value that this family does not implement."""
    raw.expect("model_type", "phi3")
    raw.expect("hidden_act", "silu")
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        raw.expect(key, False, default=False)
    for key in ("full_attn_mod", "interpolate_factor"):
        raw.expect(key, 1, default=1)
    raw.ignore(*_WITHOUT_EFFECT)
    hidden, heads = raw.require("hidden_size", int), raw.require("num_attention_heads", int)
    head_dim = raw.optional("head_dim", int, None) or hidden // heads
    kv_heads = raw.optional("num_key_value_heads", int, None) or heads
    if head_dim * heads != hidden or heads % kv_heads:
        raise ConfigMismatch(
            f"{raw.path}: {heads} heads of {head_dim} over {kv_heads} key/value heads do not divide a hidden size of "
            f"{hidden}; heads × head_dim must be the hidden size and key/value heads must divide heads: "
            "check the checkpoint"
        )
    rope = read_rope(raw, head_dim)
    window = raw.optional("sliding_window", int, None)
    return Config(
        vocabulary=raw.require("vocab_size", int), hidden=hidden, intermediate=raw.require("intermediate_size", int),
        layers=raw.require("num_hidden_layers", int), heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        norm_epsilon=raw.require("rms_norm_eps", float),
        # a window of at least the context never hides anything
        sliding_window=window if window is not None and window < rope.context_length else None,
        tied=raw.optional("tie_word_embeddings", bool, False), rope=rope,
    )


def rules(config: Config) -> tuple[Rule, ...]:
    """Published names are the names of the weights; only the head of a tied checkpoint may be stored twice."""
    per_layer = (
        "input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_up_proj",
        "mlp.down_proj",
    )
    layered = tuple(Rename(f"{LAYER}{name}.weight", f"{LAYER}{name}.weight", config.layers) for name in per_layer)
    head: Rule = Tie(HEAD, EMBEDDING) if config.tied else Rename(HEAD, HEAD)
    return Rename(EMBEDDING, EMBEDDING), *layered, Rename("model.norm.weight", "model.norm.weight"), head


def build(config: Config, provider: Provider) -> dict[str, ir.Model]:
    """The one graph of this family."""
    attention = AttentionShape(config.hidden, config.heads, config.kv_heads, config.head_dim, config.sliding_window)
    shape = DecoderShape(
        layers=config.layers, attention=attention, intermediate=config.intermediate, vocabulary=config.vocabulary,
        norm_epsilon=config.norm_epsilon, rope=config.rope, embedding=EMBEDDING,
        head=EMBEDDING if config.tied else HEAD,
    )
    activations = ir.DataType[{"float32": "FLOAT", "float16": "FLOAT16"}[provider.activation_dtype]]
    return {"text": text_graph(shape, activations)}


def norm_feeding(config: Config) -> dict[str, str]:
    """Inputs of these linears are normed: γ² of the norm is their expected squared size, column by column."""
    feeding: dict[str, str] = {}
    for layer in range(config.layers):
        prefix = LAYER.replace("{layer}", str(layer))
        feeding[f"{prefix}self_attn.qkv_proj.weight"] = f"{prefix}input_layernorm.weight"
        feeding[f"{prefix}mlp.gate_up_proj.weight"] = f"{prefix}post_attention_layernorm.weight"
    return feeding


def rotary(config: Config) -> tuple[Table, ...]:
    """The rotary tables, ordered by the sequence length up to which each holds."""
    return tables(config.rope)


def text_model(config: Config, rotary_tables: tuple[RotaryTable, ...]) -> TextModel:
    """The decoder's shape as the manifest states it."""
    return TextModel(
        layers=config.layers, hidden_size=config.hidden, heads=config.heads, kv_heads=config.kv_heads,
        head_dim=config.head_dim, vocab_size=config.vocabulary, context_length=config.context_length,
        sliding_window=config.sliding_window, rotary=rotary_tables,
    )

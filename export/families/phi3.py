"""Phi3ForCausalLM: Phi-4-mini(-reasoning), Phi-4, Phi-4-reasoning(-plus), Phi-3.5-mini, Phi-3-mini.

One decoder for all of them: RMSNorm, fused qkv, rotary embedding of the whole head or a part of it (plain or LongRoPE),
grouped-query attention, optionally within a sliding window, and a gated silu feed-forward part; the LM head may be the
embedding. No biases anywhere.
"""

from __future__ import annotations

import onnx_ir as ir

from ...runtime.manifest import RotaryTable, TextModel
from ...runtime.providers.provider import Provider
from ..config import ConfigReader
from ..layers import text_config
from ..layers.decoder import DecoderShape, text_graph
from ..layers.rope import Rope, Table, tables
from ..layers.text_config import ALONE, EMBEDDING, HEAD, LAYER, LINEARS, NORMS
from ..layers.text_config import TextConfig as Config
from ..weights import Rename, Rule, Tie
from . import PartPlan

NAME = "phi3"
ARCHITECTURES = ("Phi3ForCausalLM",)
CAPABILITIES = ("text",)
PARTS = {"text": PartPlan("text", "linear")}

TINY = Config(
    vocabulary=320, hidden=64, intermediate=96, layers=2, heads=4, kv_heads=2, head_dim=16, norm_epsilon=1e-5,
    sliding_window=None, tied=True, rope=Rope(10000.0, 12, 256, 64, (1.0,) * 6, (1.0, 1.5, 2.0, 4.0, 8.0, 16.0), 1.1),
)


def read(raw: ConfigReader) -> Config:
    """Read a published config.json. Raises ConfigMismatch for a value that this family does not implement."""
    raw.expect("model_type", "phi3")
    return text_config.read_text_config(raw)


def adapter_folders(config: Config) -> tuple[str, ...]:
    """None: what is trained on top of such a checkpoint is merged into it."""
    return ()


def rules(config: Config) -> tuple[Rule, ...]:
    """Published names are the names of the weights; only the head of a tied checkpoint may be stored twice."""
    layered = [f"{LAYER}{name}.weight" for name in (*LINEARS, *NORMS)]
    head: Rule = Tie(HEAD, EMBEDDING) if config.tied else Rename(HEAD, HEAD)
    return *(Rename(name, name) for name in ALONE), *(Rename(name, name, config.layers) for name in layered), head


def build(config: Config, provider: Provider) -> dict[str, ir.Model]:
    """The one graph of this family."""
    return {"text": text_graph(decoder(config), text_config.activations(provider))}


def decoder(config: Config) -> DecoderShape:
    """Structure of the text decoder."""
    return config.shape(EMBEDDING)


def norm_feeding(config: Config) -> dict[str, str]:
    """Inputs of these linears are normed: γ² of the norm is their expected squared size, column by column."""
    return text_config.norm_feeding(config)


def rotary(config: Config) -> tuple[Table, ...]:
    """The rotary tables, ordered by the sequence length up to which each holds."""
    return tables(config.rope)


def media_tokens(config: Config) -> tuple[None, None]:
    """Text only."""
    return None, None


def pictures(config: Config) -> None:
    """Text only."""


def thinking(config: Config) -> None:
    """config.json does not tell checkpoints that think from others; the texts beside it do."""


def text_model(config: Config, rotary_tables: tuple[RotaryTable, ...]) -> TextModel:
    """The decoder's shape as the manifest states it."""
    return text_config.text_model(config, rotary_tables)

"""Rotary position tables: plain RoPE and LongRoPE, whole heads or a part of them.

Formulas: RoPE, Su et al. 2021 (arXiv 2104.09864); LongRoPE, Ding et al. 2024 (arXiv 2402.13753), with the attention
factor √(1 + ln(extended / original) / ln(original)) on cosines and sines of both tables, as the Phi-3 and Phi-4
checkpoints were trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...runtime.errors import ConfigMismatch
from ..config import ConfigReader
from ..graph import GraphBuilder

ORIGINAL = "original_max_position_embeddings"
LONGROPE_NAMES = ("longrope", "su")  # Phi-3 checkpoints of 2024 say "su" for the same thing


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of the first `rotary_dim` of each head; factors divide the frequencies, None for plain RoPE."""

    theta: float
    rotary_dim: int
    context_length: int
    original_length: int
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Table:
    """float32 cosines and sines (positions, rotary_dim / 2) that hold for sequences of at most `limit` tokens."""

    limit: int
    cos: np.ndarray
    sin: np.ndarray


def read_rope(raw: ConfigReader, head_dim: int) -> Rope:
    """Read theta, the rotary part and `rope_scaling` or its newer spelling `rope_parameters`. Raises ConfigMismatch."""
    context = raw.count("max_position_embeddings")
    block = raw.section("rope_parameters") or raw.section("rope_scaling")
    raw.ignore("rope_scaling")  # transformers writes both spellings side by side
    if block is None:
        return _plain(raw, raw, head_dim, context)
    kind = block.optional("rope_type", str, None) or block.optional("type", str, None)
    block.ignore("type")
    if kind == "default":
        return _plain(block, raw, head_dim, context)
    if kind not in LONGROPE_NAMES:
        raise ConfigMismatch(
            f"{raw.path}: the rope type is {kind!r}; this family implements 'default', 'longrope' (also spelt 'su'): "
            "use a checkpoint of one of these"
        )
    original = block.optional(ORIGINAL, int, None) or raw.require(ORIGINAL, int)
    raw.ignore(ORIGINAL)
    rotary_dim = _rotary_dim(block, raw, head_dim)
    block.ignore("factor")  # the ratio of the two lengths, which are read themselves
    given = block.optional("attention_factor", float, None)
    short, long = (_factors(block, key, rotary_dim, raw) for key in ("short_factor", "long_factor"))
    attention_factor = longrope_attention_factor(context, original) if given is None else given
    return Rope(_theta(block, raw), rotary_dim, context, original, short, long, attention_factor)


def longrope_attention_factor(context: int, original: int) -> float:
    """√(1 + ln(context / original) / ln(original)), 1 where the context is not extended."""
    return 1.0 if context <= original else math.sqrt(1 + math.log(context / original) / math.log(original))


def tables(rope: Rope) -> tuple[Table, ...]:
    """One table for plain RoPE, a short and a long one for LongRoPE, ordered by the length up to which each holds."""
    if rope.short_factor is None or rope.long_factor is None:
        return (_table(rope, None, rope.context_length),)
    short = _table(rope, rope.short_factor, min(rope.original_length, rope.context_length))
    if rope.context_length <= rope.original_length:
        return (short,)
    return short, _table(rope, rope.long_factor, rope.context_length)


def declare_tables(graph: GraphBuilder, rope: Rope) -> tuple[ir.Value, ir.Value]:
    """Declare `rotary_cos` and `rotary_sin`: the first table is their default, a session may bind another one."""
    rows = min(rope.original_length, rope.context_length)
    half = rope.rotary_dim // 2
    cos, sin = (graph.weight(name, (rows, half)) for name in ("rotary_cos", "rotary_sin"))
    return graph.overridable(cos, ("positions", half)), graph.overridable(sin, ("positions", half))


def _table(rope: Rope, factor: tuple[float, ...] | None, positions: int) -> Table:
    # float32 up to the angle, as in training: at position 100,000 a more precise angle would be a different one
    exponent = np.arange(0, rope.rotary_dim, 2, dtype=np.int64).astype(np.float32) / np.float32(rope.rotary_dim)
    frequency = np.float32(1.0) / (np.asarray(factor or 1.0, np.float32) * np.power(np.float32(rope.theta), exponent))
    angle = np.outer(np.arange(positions, dtype=np.float32), frequency.astype(np.float32))
    factor32 = np.float32(rope.attention_factor)
    return Table(positions, np.cos(angle) * factor32, np.sin(angle) * factor32)


def _plain(block: ConfigReader, raw: ConfigReader, head_dim: int, context: int) -> Rope:
    raw.ignore(ORIGINAL)
    return Rope(_theta(block, raw), _rotary_dim(block, raw, head_dim), context, context)


def _theta(block: ConfigReader, raw: ConfigReader) -> float:
    inner = block.optional("rope_theta", float, None)
    outer = raw.optional("rope_theta", float, None)
    return float(inner or outer or 10000.0)


def _rotary_dim(block: ConfigReader, raw: ConfigReader, head_dim: int) -> int:
    inner = block.optional("partial_rotary_factor", float, None)
    outer = raw.optional("partial_rotary_factor", float, None)
    fraction = inner if inner is not None else outer if outer is not None else 1.0
    rotary_dim = int(head_dim * fraction)
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise ConfigMismatch(
            f"{raw.path}: partial_rotary_factor {fraction} of a head of {head_dim} gives {rotary_dim} rotary "
            f"dimensions; an even number from 2 to {head_dim} is allowed: check the checkpoint"
        )
    return rotary_dim


def _factors(block: ConfigReader, key: str, rotary_dim: int, raw: ConfigReader) -> tuple[float, ...]:
    values = block.require(key, list)
    numbers = tuple(float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool))
    if len(numbers) != len(values) or len(numbers) != rotary_dim // 2 or min(numbers) <= 0:
        raise ConfigMismatch(
            f"{raw.path}: rope {key} holds {len(values)} entries; {rotary_dim // 2} positive numbers are needed, one "
            "for each frequency: check the checkpoint"
        )
    return numbers

"""The text decoder in plain numpy float32, one stage at a time, from a checkpoint's own weights.

Boundary: arithmetic only. It is written for being obviously right, not for speed, and shares no code with the graphs.
Formulas: RMSNorm, Zhang & Sennrich 2019 (arXiv 1910.07467); rotary embedding of half-split heads, Su et al. 2021
(arXiv 2104.09864); grouped-query attention, Ainslie et al. 2023 (arXiv 2305.13245); gated silu, Shazeer 2020
(arXiv 2002.05202).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .layers.decoder import DecoderShape
from .layers.rope import Table

EMBEDDING = "model.embed_tokens.weight"
SLICE_ROWS = 4096

ReadRows = Callable[[str, int, int], np.ndarray]


@dataclass(frozen=True)
class Decoder:
    """`read(weight, start, stop)` gives float32 rows; `table` holds for the positions 0 to n of the sequences."""

    shape: DecoderShape
    table: Table
    read: ReadRows

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """int64 (n,) → float32 (n, hidden)."""
        return np.concatenate([self.read(EMBEDDING, row, row + 1) for row in ids.tolist()])

    def attend(self, x: np.ndarray, layer: int) -> np.ndarray:
        """What the attention of a layer adds to its input x (n, hidden)."""
        prefix, attention = f"model.layers.{layer}", self.shape.attention
        heads, kv_heads, size = attention.heads, attention.kv_heads, attention.head_dim
        normed = self._norm(x, f"{prefix}.input_layernorm.weight")
        qkv = self._linear(normed, f"{prefix}.self_attn.qkv_proj.weight", attention.qkv_rows)
        q, k, v = (
            part.reshape(len(x), -1, size).transpose(1, 0, 2)
            for part in np.split(qkv, [heads * size, (heads + kv_heads) * size], axis=1)
        )
        q, k = self._rotate(q), self._rotate(k)
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (k, v))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(size))
        distance = np.arange(len(x))[:, None] - np.arange(len(x))[None, :]
        visible = (distance >= 0) & (distance < (attention.window or len(x)))
        weights = _softmax(np.where(visible, scores, -np.inf))
        mixed = (weights @ v).transpose(1, 0, 2).reshape(len(x), heads * size)
        return self._linear(mixed, f"{prefix}.self_attn.o_proj.weight", attention.hidden)

    def feed_forward(self, x: np.ndarray, layer: int) -> np.ndarray:
        """What the feed-forward part of a layer adds to its input x (n, hidden)."""
        prefix, inner = f"model.layers.{layer}", self.shape.intermediate
        normed = self._norm(x, f"{prefix}.post_attention_layernorm.weight")
        gate, up = np.split(self._linear(normed, f"{prefix}.mlp.gate_up_proj.weight", 2 * inner), 2, axis=1)
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and its reciprocal the 0 that is meant
            silu = gate / (1 + np.exp(-gate))
        return self._linear(silu * up, f"{prefix}.mlp.down_proj.weight", self.shape.attention.hidden)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """x (n, hidden) after the last layer → float32 (n, vocabulary)."""
        return self._linear(self._norm(x, "model.norm.weight"), self.shape.head, self.shape.vocabulary)

    def _norm(self, x: np.ndarray, weight: str) -> np.ndarray:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.shape.norm_epsilon))
        normed: np.ndarray = x / scale * self.read(weight, 0, x.shape[-1])
        return normed

    def _linear(self, x: np.ndarray, weight: str, outputs: int) -> np.ndarray:
        starts = range(0, outputs, SLICE_ROWS)
        parts = [x @ self.read(weight, start, min(start + SLICE_ROWS, outputs)).T for start in starts]
        return np.concatenate(parts, axis=1)

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        """Turn the pairs (i, i + r/2) of the first r dimensions of x (heads, n, head_dim) by the position's angles."""
        half = self.shape.rope.rotary_dim // 2
        cos, sin = self.table.cos[: x.shape[1]], self.table.sin[: x.shape[1]]
        first, second, rest = np.split(x, [half, 2 * half], axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return result

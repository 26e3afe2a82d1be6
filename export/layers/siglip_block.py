"""One block of a SigLIP image encoder: attention over patches and a feed-forward part, each behind a norm.

Structure: Zhai et al. 2023 (SigLIP, arXiv 2303.15343). Boundary: rows in, rows out; which rows there are and where they
stand is siglip.py's and siglip_naflex.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph import MICROSOFT, GraphBuilder
from .linear import biased_linear
from .norm import layer_norm
from .plain_attention import plain_attention

ALIGNMENT = 128  # blocks of a quantized weight; gelu(0) = 0, so zeros behind the inner width change nothing

# Parts of a block, each with a weight and a bias, and tensors of the head that pools rows for other uses of an encoder.
BLOCK_WEIGHTS = (
    "layer_norm1", "layer_norm2", *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2",
)
POOLING_HEAD = (
    "probe", "attention.in_proj_weight", "attention.in_proj_bias",
    *(
        f"{name}.{kind}" for name in ("attention.out_proj", "layernorm", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ),
)


@dataclass(frozen=True)
class BlockShape:
    """Widths, heads and the ε of the norms."""

    hidden: int
    intermediate: int
    heads: int
    norm_epsilon: float

    @property
    def inner_padding(self) -> int:
        """Zeros appended to the inner width of the feed-forward part."""
        return -self.intermediate % ALIGNMENT


def block(
    graph: GraphBuilder, x: ir.Value, prefix: str, shape: BlockShape, keys: ir.Value | None = None,
    bias: ir.Value | None = None,
) -> ir.Value:
    """x (1, rows, hidden) → (1, rows, hidden); `keys` are the rows that attention looks at, None for all.

    Without a mask ONNX Runtime computes the attention in tiles: the scores of all pairs of rows never exist at once.
    With a `bias` of the scores, (1, 1, 1, rows), it is drawn in single steps.
    """
    width, inner = shape.hidden, shape.intermediate + shape.inner_padding
    normed = layer_norm(graph, x, f"{prefix}.layer_norm1", width, shape.norm_epsilon)
    seen = normed if keys is None else graph.apply("Gather", (normed, keys), f"{prefix}.self_attn.seen", axis=1)
    query = biased_linear(graph, normed, f"{prefix}.self_attn.q_proj", width, width)
    key, value = (biased_linear(graph, seen, f"{prefix}.self_attn.{name}_proj", width, width) for name in ("k", "v"))
    name = f"{prefix}.self_attn.attention"
    if bias is None:
        (attended,) = graph.node(
            "MultiHeadAttention", (query, key, value), name, domain=MICROSOFT, attributes={"num_heads": shape.heads}
        )
    else:
        scale = (width // shape.heads) ** -0.5
        attended = plain_attention(graph, query, key, value, bias, name, shape.heads, scale)
    output = biased_linear(graph, attended, f"{prefix}.self_attn.out_proj", width, width)
    x = graph.apply("Add", (x, output), f"{prefix}.self_attn.sum")
    normed = layer_norm(graph, x, f"{prefix}.layer_norm2", width, shape.norm_epsilon)
    raised = biased_linear(graph, normed, f"{prefix}.mlp.fc1", inner, width)
    activated = graph.apply("Gelu", (raised,), f"{prefix}.mlp.gelu", approximate="tanh")
    lowered = biased_linear(graph, activated, f"{prefix}.mlp.fc2", width, inner)
    return graph.apply("Add", (x, lowered), f"{prefix}.mlp.sum")

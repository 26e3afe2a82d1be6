"""RMSNorm and the addition before it as two nodes: a compiler that does not know the fused one leaves it to the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from . import Draft

FUSED = "SkipSimplifiedLayerNormalization"


def apply(draft: Draft) -> Draft:
    """Every fused norm of every graph, in place."""
    for model in draft.graphs.values():
        for node in list(model.graph):
            if node.op_type == FUSED:
                _split(model.graph, node)
    return draft


def _split(graph: ir.Graph, node: ir.Node) -> None:
    x, residual, weight = node.inputs[:3]
    total = ir.node("Add", [x, residual], name=f"{node.name}.sum")
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    normed = ir.node(
        "SimplifiedLayerNormalization", [total.outputs[0], weight],
        {"axis": -1, "epsilon": epsilon, "stash_type": 1}, name=node.name,
    )
    total.outputs[0].name, normed.outputs[0].name = f"{node.name}.sum", node.outputs[0].name
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [total, normed], [node.outputs[0], node.outputs[3]], [normed.outputs[0], total.outputs[0]],
    )

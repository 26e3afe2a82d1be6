"""Low-rank adapters beside the linears of the decoder, switched by gates: W x + B (A x) where one is active.

Formula: Hu et al. 2021 (LoRA, arXiv 2106.09685). The factor alpha / rank is part of B. A and B are constants inside an
`If`, so a switched-off adapter costs neither time nor, until it is used, a page of its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph import GraphBuilder
from .linear import Project, linear


@dataclass(frozen=True)
class Adapter:
    """An adapter of every linear of the decoder; `name` is part of the names of its weights and of its gate."""

    name: str
    rank: int

    @property
    def gate(self) -> str:
        """The bool scalar input, with a default, that switches the adapter on."""
        return f"{self.name}_lora"

    def factors(self, weight: str) -> tuple[str, str]:
        """Names of A (rank, inputs) and B (outputs, rank) beside the weight of a linear."""
        prefix = weight.removesuffix(".weight")
        return f"{prefix}.lora_A.{self.name}.weight", f"{prefix}.lora_B.{self.name}.weight"


def adapted(graph: GraphBuilder, adapters: Sequence[Adapter], active: str | None) -> Project:
    """Declare a gate for each adapter; the product with them: the first one whose gate is true is added.

    `active` names the adapter whose gate is true by default.
    """
    gated = [
        (adapter, graph.overridable(graph.constant(adapter.gate, np.array(adapter.name == active)), ()))
        for adapter in adapters
    ]

    def project(graph: GraphBuilder, x: ir.Value, weight: str, outputs: int, inputs: int) -> ir.Value:
        prefix = weight.removesuffix(".weight")
        product = linear(graph, x, weight, outputs, inputs)

        def side_path(adapter: Adapter) -> ir.Value:
            down, up = adapter.factors(weight)
            low = linear(graph, x, down, adapter.rank, inputs)
            raised = linear(graph, low, up, outputs, adapter.rank)
            return graph.apply("Add", (product, raised), f"{prefix}.{adapter.gate}")

        def first_active(remaining: Sequence[tuple[Adapter, ir.Value]]) -> ir.Value:
            if not remaining:
                return graph.apply("Identity", (product,), f"{prefix}.unadapted")
            (adapter, gate), *others = remaining
            return graph.choose(
                gate, f"{prefix}.{adapter.gate}_or_not", lambda: side_path(adapter), lambda: first_active(others)
            )

        return first_active(gated)

    return project

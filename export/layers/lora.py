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
    gated: list[tuple[Adapter, ir.Value]] = []
    off: list[ir.Value] = []
    for adapter in adapters:
        gate = graph.overridable(graph.constant(adapter.gate, np.array(adapter.name == active)), ())
        first = gate
        for number, earlier in enumerate(off):
            first = graph.apply("And", (first, earlier), f"{adapter.gate}.without_{number}")
        gated.append((adapter, first))
        if adapter is not adapters[-1]:
            off.append(graph.apply("Not", (gate,), f"{adapter.gate}_off"))

    def project(graph: GraphBuilder, x: ir.Value, weight: str, outputs: int, inputs: int) -> ir.Value:
        result = linear(graph, x, weight, outputs, inputs)
        for adapter, gate in gated:
            result = _gated(graph, Product(weight.removesuffix(".weight"), x, result, outputs, inputs), adapter, gate)
        return result

    return project


def always(adapter: Adapter) -> Project:
    """The product with an adapter that is on: nothing switches it, for devices whose graphs have no branches."""

    def project(graph: GraphBuilder, x: ir.Value, weight: str, outputs: int, inputs: int) -> ir.Value:
        result = linear(graph, x, weight, outputs, inputs)
        return _side_path(graph, Product(weight.removesuffix(".weight"), x, result, outputs, inputs), adapter)

    return project


@dataclass(frozen=True)
class Product:
    """What a linear makes: `result` (..., outputs) of `x` (..., inputs); `prefix` begins the names of its weights."""

    prefix: str
    x: ir.Value
    result: ir.Value
    outputs: int
    inputs: int


class AddedAdapters:
    """Adapters beside linears of a graph that is there already; at most one of their gates may be true.

    One `If` a linear, however many adapters there are, so those that are off cost the same as a single one. What lies
    deeper is not packed, which small factors in float32 do not need.
    """

    def __init__(self, graph: GraphBuilder, names: Sequence[str]) -> None:
        """Declare a gate for each name, off by default."""
        self._graph = graph
        self._gates = {
            name: graph.overridable(graph.constant(Adapter(name, 0).gate, np.array(False)), ()) for name in names
        }
        self._any: dict[tuple[str, ...], ir.Value] = {}

    def beside(self, product: Product, adapters: Sequence[Adapter]) -> ir.Value:
        """`product.result`, with what the one of `adapters` adds whose gate is true. Call it in the graph's order."""
        graph, prefix = self._graph, product.prefix

        def active(remaining: Sequence[Adapter]) -> ir.Value:
            adapter, *others = remaining
            if not others:
                return _side_path(graph, product, adapter)
            return graph.choose(
                self._gates[adapter.name], f"{prefix}.{adapter.gate}_or_other",
                lambda: _side_path(graph, product, adapter), lambda: active(others),
            )

        return graph.choose(
            self._any_of(tuple(adapter.name for adapter in adapters)), f"{prefix}.added", lambda: active(adapters),
            lambda: graph.apply("Identity", (product.result,), f"{prefix}.as_published"),
        )

    def _any_of(self, names: tuple[str, ...]) -> ir.Value:
        """Whether one of the gates is true; made once and read by every later linear with the same adapters."""
        if names not in self._any:
            *others, last = names
            gate = self._gates[last]
            if others:
                earlier = self._any_of(tuple(others))
                gate = self._graph.apply("Or", (earlier, gate), self._graph.numbered("any_adapter"))
            self._any[names] = gate
        return self._any[names]


def _gated(graph: GraphBuilder, product: Product, adapter: Adapter, gate: ir.Value) -> ir.Value:
    """`product.result`, with what the adapter adds where its gate is true.

    One adapter's `If` follows another's and never lies inside it: ONNX Runtime packs quantized weights of a branch
    while loading, but not those of a branch in a branch, which then cost twenty times as much.
    """
    name = f"{product.prefix}.{adapter.gate}"
    return graph.choose(
        gate, f"{name}_or_not",
        lambda: _side_path(graph, product, adapter),
        lambda: graph.apply("Identity", (product.result,), f"{name}_off"),
    )


def _side_path(graph: GraphBuilder, product: Product, adapter: Adapter) -> ir.Value:
    down, up = adapter.factors(f"{product.prefix}.weight")
    low = linear(graph, product.x, down, adapter.rank, product.inputs)
    raised = linear(graph, low, up, product.outputs, adapter.rank)
    return graph.apply("Add", (product.result, raised), f"{product.prefix}.{adapter.gate}")

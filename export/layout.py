"""Where each stored part lies in the external data file, and the tensors that point there.

Boundary: offsets and references only; no data passes through here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import onnx_ir as ir

PAGE = 4096
SMALL = 64
LARGE_BYTES = 1 << 16


class StoredPart(Protocol):
    """One part of a weight as an initializer shows it."""

    @property
    def weight(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def dtype(self) -> ir.DataType: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Slot:
    """A byte range of the data file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """Slots by (weight, kind of part), in file order, and the size of the whole file in bytes."""

    slots: Mapping[tuple[str, str], Slot]
    size: int

    def of(self, weight: str) -> dict[str, Slot]:
        """The slots of one weight by kind of part."""
        return {kind: slot for (name, kind), slot in self.slots.items() if name == weight}


def arrange(parts: Iterable[StoredPart]) -> Layout:
    """Give every distinct (weight, kind) a slot; large ones start on a page so that they can be mapped alone.

    Initializers that show the same part with other shapes share its slot; they must agree on its size.
    """
    slots: dict[tuple[str, str], Slot] = {}
    end = 0
    for part in parts:
        nbytes = prod(part.shape) * part.dtype.itemsize
        known = slots.get((part.weight, part.kind))
        if known is not None:
            if known.nbytes != nbytes:
                raise ValueError(f"{part.weight} {part.kind} is shown with {known.nbytes} and with {nbytes} bytes")
            continue
        alignment = PAGE if nbytes >= LARGE_BYTES else SMALL
        offset = -(-end // alignment) * alignment
        slots[part.weight, part.kind] = Slot(offset, int(nbytes))
        end = offset + int(nbytes)
    return Layout(slots, end)


def attach(model: ir.Model, parts: Mapping[str, StoredPart], layout: Layout, file: str) -> None:
    """Point every initializer of `parts` at its slot in `file`, which lies beside the graph."""
    for name, part in parts.items():
        slot = layout.slots[part.weight, part.kind]
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            file, slot.offset, slot.nbytes, part.dtype, shape=ir.Shape(part.shape), name=name,
        )

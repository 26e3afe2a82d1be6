"""Where each stored part lies in the files of external data, and the tensors that point there.

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
    def weight(self) -> str:
        """The weight that it belongs to."""
    @property
    def kind(self) -> str:
        """Which part of that weight."""
    @property
    def dtype(self) -> ir.DataType:
        """Of the initializer."""
    @property
    def shape(self) -> tuple[int, ...]:
        """Of the initializer, in elements."""


@dataclass(frozen=True)
class Slot:
    """A byte range of a data file."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """Slots by (weight, kind of part), in file order, and the size of each file in bytes."""

    slots: Mapping[tuple[str, str], Slot]
    sizes: Mapping[str, int]

    def of(self, weight: str) -> dict[str, Slot]:
        """The slots of one weight by kind of part."""
        return {kind: slot for (name, kind), slot in self.slots.items() if name == weight}

    def weights(self) -> tuple[str, ...]:
        """Every stored weight once, in file order."""
        return tuple(dict.fromkeys(name for name, _ in self.slots))


def arrange(parts: Iterable[tuple[str, StoredPart]]) -> Layout:
    """Give every distinct (weight, kind) a slot in the data file that comes with its first mention.

    Large ones start on a page so that they can be mapped alone. Initializers that show the same part with other
    shapes, or from other graphs, share its slot; they must agree on its size.
    """
    slots: dict[tuple[str, str], Slot] = {}
    sizes: dict[str, int] = {}
    for file, part in parts:
        nbytes = int(prod(part.shape) * part.dtype.itemsize)
        known = slots.get((part.weight, part.kind))
        if known is not None:
            if known.nbytes != nbytes:
                raise ValueError(f"{part.weight} {part.kind} is shown with {known.nbytes} and with {nbytes} bytes")
            continue
        alignment = PAGE if nbytes >= LARGE_BYTES else SMALL
        offset = -(-sizes.get(file, 0) // alignment) * alignment
        slots[part.weight, part.kind] = Slot(file, offset, nbytes)
        sizes[file] = offset + nbytes
    return Layout(slots, sizes)


def attach(model: ir.Model, parts: Mapping[str, StoredPart], layout: Layout) -> tuple[str, ...]:
    """Point every initializer of `parts` at its slot; returns the data files, which lie beside the graph."""
    files: dict[str, None] = {}
    for name, part in parts.items():
        slot = layout.slots[part.weight, part.kind]
        files[slot.file] = None
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            slot.file, slot.offset, slot.nbytes, part.dtype, shape=ir.Shape(part.shape), name=name,
        )
    return tuple(files)

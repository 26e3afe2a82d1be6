"""ONE GRAPH REWRITE A FILE, found by name; which ones apply, and in which order, the record of a device says.

Each file defines `apply(draft)`. Boundary: graphs, rotary tables and the order of rows; no data passes through here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import onnx_ir as ir

from ...runtime.errors import ExportError
from ...runtime.providers.provider import Provider
from ..families import PartPlan
from ..layers.decoder import DecoderShape
from ..layers.rope import Table
from ..weights import Binding, Piece

TEXT, STEP, EMBEDDING = "text", "-step", "embedding"
DEFAULT_CONTEXT = 4096


def stored(parts: Mapping[str, PartPlan]) -> dict[str, PartPlan]:
    """How a family's graphs and those that rewrites add are stored: an iterator as its context processor is."""
    iterators = {f"{name}{STEP}": plan for name, plan in parts.items() if is_decoder(name)}
    return {EMBEDDING: PartPlan(TEXT, "linear"), **iterators, **parts}


def is_decoder(part: str) -> bool:
    """Whether a part is the text decoder, alone or with an adapter: "text", "text-vision", ..."""
    return part.partition("-")[0] == TEXT


@dataclass(frozen=True)
class Draft:
    """What a family drew, on its way to a device.

    `rows`: weight → the order in which its rows are stored, where that is not the published one. `context`: the longest
    sequence in positions; graphs of fixed shapes read `window` of them at once.
    """

    decoder: DecoderShape
    graphs: Mapping[str, ir.Model]
    tables: tuple[Table, ...]
    window: int
    context: int
    rows: Mapping[str, tuple[int, ...]]


def lower(
    provider: Provider, decoder: DecoderShape, graphs: Mapping[str, ir.Model], tables: tuple[Table, ...],
    context: int | None,
) -> Draft:
    """Apply what the record of a device asks for. Raises ExportError for what has no form for that device."""
    longest = tables[-1].limit
    if provider.window is None:
        if context is not None:
            raise ExportError(
                f"device {provider.name!r} takes conversations of any length up to the model's {longest} tokens: "
                "leave out --context here, and give it to `edgephi run`"
            )
        return Draft(decoder, graphs, tables, 0, longest, {})
    chosen = _context(context, longest, provider.window)
    if decoder.attention.window is not None:
        raise ExportError(
            f"device {provider.name!r}: the checkpoint attends within a sliding window, which has no form of fixed "
            "shapes in this version: choose --device cpu or gpu"
        )
    draft = Draft(decoder, graphs, tables, provider.window, chosen, {})
    for name in provider.lowerings:
        draft = cast(Draft, importlib.import_module(f".{name}", __package__).apply(draft))
    return draft


def reordered(binding: Binding, rows: Mapping[str, Sequence[int]]) -> Binding:
    """The same weights with their rows in another order."""
    return replace(binding, weights={
        weight: _reorder(pieces, rows[weight]) if weight in rows else pieces
        for weight, pieces in binding.weights.items()
    })


def _context(asked: int | None, longest: int, window: int) -> int:
    """Whole windows, so that a padded one fits behind any multiple of them."""
    chosen = min(DEFAULT_CONTEXT, longest) if asked is None else asked
    if not 2 * window <= chosen <= longest:
        raise ExportError(
            f"the context is {chosen}; graphs of fixed shapes for this model take {2 * window} to {longest} tokens: "
            "choose one of these with --context"
        )
    return chosen // window * window


def _reorder(pieces: Sequence[Piece], order: Sequence[int]) -> tuple[Piece, ...]:
    """Pieces that give the rows `order` of what `pieces` give, as few as there are runs of consecutive rows."""
    places = [(piece, row) for piece in pieces for row in range(piece.rows)]
    made: list[Piece] = []
    for index in order:
        piece, row = places[index]
        first = piece.first + row * piece.columns
        last = made[-1] if made else None
        if last is not None and replace(last, first=last.first + last.rows * last.columns, rows=1) == replace(
            piece, first=first, rows=1
        ):
            made[-1] = replace(last, rows=last.rows + 1)
        else:
            made.append(replace(piece, first=first, rows=1))
    return tuple(made)

"""ONE FILE PER FAMILY, found by listing this folder; each names the architectures of config.json that it implements.

A family file defines what `Family` states, and its own Config.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import onnx_ir as ir

from ...runtime.errors import UnsupportedModel
from ...runtime.manifest import Pictures, RotaryTable, TextModel, Thinking
from ...runtime.providers.provider import Provider
from ..config import ConfigReader
from ..graph import STORED_SHAPE
from ..layers.decoder import DecoderShape
from ..layers.rope import Table
from ..weights import Rule

ROTARY = ("rotary_cos", "rotary_sin")  # filled from the family's tables, not from the checkpoint


@dataclass(frozen=True)
class PartPlan:
    """How one graph of a family is stored.

    `data`: stem of the data file that gets the weights which no earlier graph declared; graphs may share one.
    `products`: what the precision takes those weights for where they are matrix products and neither head nor table.
    """

    data: str
    products: Literal["linear", "encoder", "lora"]


class Family(Protocol):
    """What every file of this folder provides. `PARTS` has a plan for every graph that `build` may return."""

    NAME: str
    ARCHITECTURES: tuple[str, ...]
    CAPABILITIES: tuple[str, ...]
    PARTS: Mapping[str, PartPlan]
    TINY: Any

    def read(self, raw: ConfigReader) -> Any:
        """The family's Config from config.json. Raises ConfigMismatch."""

    def adapter_folders(self, config: Any) -> tuple[str, ...]:
        """Folders beside config.json whose adapters are part of the model; their tensors are named `folder.name`."""

    def rules(self, config: Any) -> tuple[Rule, ...]:
        """How the tensors of a checkpoint become weights of the graphs."""

    def build(self, config: Any, provider: Provider) -> dict[str, ir.Model]:
        """The graphs of the family by part (text, vision, ...), weights declared but without data.

        Graphs that declare a weight of the same name and shape share its bytes; the first one decides where they lie.
        """

    def rotary(self, config: Any) -> tuple[Table, ...]:
        """Rotary tables of the text decoder, ordered by limit."""

    def media_tokens(self, config: Any) -> tuple[int | None, int | None]:
        """Ids that stand for rows of images and of recordings, None where the family does not take them."""

    def pictures(self, config: Any) -> Pictures | None:
        """How pictures are prepared for the graph `vision`, None where the family takes none."""

    def thinking(self, config: Any) -> Thinking | None:
        """How a prompt asks for a thought or for none, None where the configuration does not tell."""

    def text_model(self, config: Any, rotary_tables: tuple[RotaryTable, ...]) -> TextModel:
        """The decoder's shape as the manifest states it."""

    def decoder(self, config: Any) -> DecoderShape:
        """Structure of the text decoder without adapters."""

    def norm_feeding(self, config: Any) -> dict[str, str]:
        """For linear weights fed by a norm: name of the linear weight → name of the norm weight."""


def weight_shapes(graphs: Mapping[str, ir.Model]) -> dict[str, tuple[int, ...]]:
    """Every weight that the graphs declare, with the shape in which it is to be filled."""
    return {
        name: tuple(value.meta[STORED_SHAPE])
        for model in graphs.values() for name, value in model.graph.initializers.items() if value.const_value is None
    }


def data_file(stem: str) -> str:
    """Name of a file of external data."""
    return f"{stem}.onnx.data"


def names() -> tuple[str, ...]:
    """The families of this version, in alphabetical order."""
    return tuple(sorted(item.name for item in pkgutil.iter_modules(__path__)))


def find(name: str) -> Family:
    """The family file of this name."""
    return cast(Family, importlib.import_module(f".{name}", __package__))


def for_architecture(architecture: str) -> Family:
    """The family that implements an entry of config.json's `architectures`.

    Raises UnsupportedModel naming those that exist.
    """
    known: dict[str, str] = {entry: name for name in names() for entry in find(name).ARCHITECTURES}
    if architecture not in known:
        raise UnsupportedModel(
            f"config.json names the architecture {architecture!r}; this version exports {', '.join(sorted(known))}: "
            "use a checkpoint of one of these"
        )
    return find(known[architecture])

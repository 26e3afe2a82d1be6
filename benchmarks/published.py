"""The published models by name.

Boundary: the list; what a model looks like is said in shapes.py and multimodal.py.
"""

from __future__ import annotations

from typing import Any, Protocol

from edgephi.runtime.errors import RequestError

from .multimodal import Encoders
from .reasoning_vision import ImageEncoder
from .shapes import CL100K, CL100K_IMAGE, O200K, O200K_MEDIA, SENTENCEPIECE_32K, Chat, MediaShape, Shape, Tensors


class Model(Protocol):
    """What every published model has."""

    @property
    def name(self) -> str:
        """Of the published model."""

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""

    @property
    def context(self) -> int:
        """Largest number of tokens."""

    @property
    def chat(self) -> Chat:
        """Control tokens and template."""

    def with_layers(self, layers: int) -> Model:
        """The same with so many layers of the decoder."""

    def tensors(self) -> Tensors:
        """Name → shape of every tensor of the checkpoint."""

    def config(self) -> dict[str, Any]:
        """config.json."""

    def generation_config(self) -> dict[str, Any]:
        """generation_config.json."""


def _mini(name: str, chat: Chat = O200K) -> Shape:
    return Shape(
        name, hidden=3072, intermediate=8192, layers=32, heads=24, kv_heads=8, vocabulary=200064, context=131072,
        original_context=4096, theta=10000.0, chat=chat, rotary_fraction=0.75, sliding_window=262144, tied=True,
    )


def _fourteen_billion(name: str, context: int, theta: float, chat: Chat = CL100K) -> Shape:
    return Shape(
        name, hidden=5120, intermediate=17920, layers=40, heads=40, kv_heads=10, vocabulary=100352, context=context,
        original_context=context, theta=theta, chat=chat,
    )


def _phi3(name: str, context: int, sliding_window: int) -> Shape:
    return Shape(
        name, hidden=3072, intermediate=8192, layers=32, heads=32, kv_heads=32, vocabulary=32064, context=context,
        original_context=4096, theta=10000.0, chat=SENTENCEPIECE_32K, sliding_window=sliding_window,
    )


_LIST: tuple[Model, ...] = (
    _mini("phi-4-mini"), _mini("phi-4-mini-reasoning"), _fourteen_billion("phi-4", 16384, 250000.0),
    _fourteen_billion("phi-4-reasoning", 32768, 500000.0), _fourteen_billion("phi-4-reasoning-plus", 32768, 500000.0),
    _phi3("phi-3.5-mini", 131072, 262144), _phi3("phi-3-mini-4k", 4096, 2047),
    MediaShape(_mini("phi-4-multimodal", O200K_MEDIA), Encoders()),
    MediaShape(_fourteen_billion("phi-4-reasoning-vision", 32768, 500000.0, CL100K_IMAGE), ImageEncoder()),
)
MODELS = {model.name: model for model in _LIST}


def find(name: str) -> Model:
    """A published model. Raises RequestError naming those that exist."""
    if name not in MODELS:
        raise RequestError(f"no model is called {name!r}: choose one of {', '.join(MODELS)}")
    return MODELS[name]

"""edgephi: Phi-4 checkpoints to INT4/INT8 ONNX bundles, and their offline use.

    import edgephi

    with edgephi.load("bundle-folder") as phi:
        for piece in phi.stream("Explain RoPE in one line."):
            print(piece.text, end="", flush=True)
        print(phi.transcribe("talk.wav").text)

The names of `__all__` are the public surface. Each is loaded when it is first asked for, so `import edgephi` costs
nothing and inference never loads what only export needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtime.errors import (
        BundleError,
        CheckpointError,
        ConfigMismatch,
        ContextOverflow,
        EdgePhiError,
        ExportError,
        HashMismatch,
        ManifestError,
        MediaError,
        MissingDependency,
        NonFiniteLogits,
        NotEnoughMemory,
        ProviderUnavailable,
        RequestError,
        SessionBusy,
        UnsupportedModel,
        WeightMismatch,
    )
    from .runtime.loading import load
    from .runtime.prefix_cache import PrefixCache
    from .runtime.session import (
        MalformedCall,
        Piece,
        Reply,
        Session,
        ToolCall,
        Transcript,
        TranscriptSegment,
        Usage,
    )
    from .runtime.skills.rewrite import rewrite
    from .runtime.skills.summarize import summarize
    from .runtime.skills.table import Table, make_table

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "CheckpointError",
    "ConfigMismatch",
    "ContextOverflow",
    "EdgePhiError",
    "ExportError",
    "HashMismatch",
    "MalformedCall",
    "ManifestError",
    "MediaError",
    "MissingDependency",
    "NonFiniteLogits",
    "NotEnoughMemory",
    "Piece",
    "PrefixCache",
    "ProviderUnavailable",
    "Reply",
    "RequestError",
    "Session",
    "SessionBusy",
    "Table",
    "ToolCall",
    "Transcript",
    "TranscriptSegment",
    "UnsupportedModel",
    "Usage",
    "WeightMismatch",
    "load",
    "make_table",
    "rewrite",
    "summarize",
]

_FILES = {
    "load": ".runtime.loading",
    "Table": ".runtime.skills.table",
    "make_table": ".runtime.skills.table",
    "rewrite": ".runtime.skills.rewrite",
    "summarize": ".runtime.skills.summarize",
    "PrefixCache": ".runtime.prefix_cache",
    **dict.fromkeys(
        (
            "MalformedCall", "Piece", "Reply", "Session", "ToolCall", "Transcript", "TranscriptSegment", "Usage",
        ),
        ".runtime.session",
    ),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_FILES.get(name, ".runtime.errors"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

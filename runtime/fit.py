"""Whether a bundle fits into this machine, and what to change where it does not.

Boundary: decides with footprint.py's bytes and the memory that memory.py finds free; opens nothing and times nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import int8_cache
from .decode import CHUNK
from .errors import NotEnoughMemory
from .footprint import EMBEDDING, HEAD, Footprint, blocks, elements, footprint
from .manifest import Manifest, TensorRecord
from .model import TEXT

SMALLEST_CONTEXT = CHUNK  # less is no conversation
DEFAULT_CONTEXT = 4096

# Codes, float16 scales and zero points of --precision int4 --preset balanced.
_SMALL, _SMALL_BITS, _TABLE, _TABLE_BITS = "uint4-block64", 4 + 20 / 64, "int8-block128", 8 + 16 / 128


@dataclass(frozen=True)
class Fit:
    """`available` bytes are free, None where the system does not tell; then `fits` is None, too.

    `largest_context`: the longest conversation in tokens that fits, at most the model's own. `changes`: what would make
    it fit, one sentence each, the most useful first.
    """

    context: int
    footprint: Footprint
    available: int | None
    fits: bool | None
    largest_context: int | None
    changes: tuple[str, ...]


def judge(manifest: Manifest, context: int, available: int | None, kv: str = "float") -> Fit:
    """Compare what a conversation of `context` tokens needs with what is free; keys and values are kept as `kv` says,
    "float" or "int8".

    Raises RequestError for a bundle that takes no INT8 cache.
    """
    if kv == "int8":
        int8_cache.require(manifest, TEXT)
    needed = footprint(manifest, context, kv)
    if available is None:
        return Fit(context, needed, None, None, None, ())
    largest = largest_context(manifest, available, kv)
    fits = needed.total <= available
    changes = () if fits else _changes(manifest, context, available, kv, largest)
    return Fit(context, needed, available, fits, largest, changes)


def largest_context(manifest: Manifest, available: int, kv: str = "float") -> int:
    """The longest conversation that fits into so many bytes; 0 where not even an empty one does."""
    low, high = 0, manifest.text.context_length
    while low < high:
        middle = (low + high + 1) // 2
        if footprint(manifest, middle, kv).total <= available:
            low = middle
        else:
            high = middle - 1
    return low


def require_memory(
    manifest: Manifest, context: int | None, available: int | None, kv: str = "float", *, mapped: bool = False
) -> None:
    """Raise NotEnoughMemory where a session cannot fit: one of `context` tokens, or the shortest one where it is None.

    `kv`: how keys and values are kept. `mapped`: the weights need no memory of their own. Raises RequestError for a
    bundle that takes no INT8 cache.
    """
    length = min(context or SMALLEST_CONTEXT, manifest.text.context_length)
    fit = judge(manifest, length, available, kv)
    needed = fit.footprint.total - (fit.footprint.weights if mapped else 0)
    if available is None or needed <= available:
        return
    raise NotEnoughMemory(
        f"{manifest.source.name} needs {gigabytes(needed)} of memory for a context of {length} tokens, "
        f"{gigabytes(available)} are free: {'; '.join(fit.changes)}; or load it all the same with allow_oversized "
        "(--allow-oversized)"
    )


def gigabytes(nbytes: float) -> str:
    """For people."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.0f} MB"


def _changes(manifest: Manifest, context: int, available: int, kv: str, largest: int) -> tuple[str, ...]:
    found = []
    if SMALLEST_CONTEXT <= largest < context:
        found.append(f"choose a context of at most {largest} tokens (--context {largest})")
    if kv == "float" and int8_cache.is_taken(manifest, TEXT):
        needed, longer = footprint(manifest, context, "int8").total, largest_context(manifest, available, "int8")
        if needed <= available:
            found.insert(0, f"keep keys and values as INT8 (--kv int8), which takes {gigabytes(needed)}")
        elif longer > largest and longer >= SMALLEST_CONTEXT:
            found.append(
                f"keep keys and values as INT8, with a context of at most {longer} tokens (--kv int8 --context "
                f"{longer})"
            )
    small = footprint(replace(manifest, report=tuple(map(_quantized, manifest.report))), context, kv).total
    if small < 0.95 * footprint(manifest, context, kv).total:
        found.append(
            f"export the checkpoint with --precision int4, which takes {gigabytes(small)}"
            f"{'' if small <= available else ', still too much'}"
        )
    return *found, "close other programs", "use a smaller model"


def _quantized(record: TensorRecord) -> TensorRecord:
    """A weight of the decoder as the smallest usual export stores it; others as they are."""
    forms = blocks(record.format)
    if record.name in (EMBEDDING, HEAD) and not forms:
        return replace(record, format=_TABLE, bytes_after=round(elements(record) * _TABLE_BITS / 8))
    if not record.name.startswith("model.layers.") or not record.name.endswith("_proj.weight"):
        return record
    if forms and forms[0].bits == 4 and forms[0].size >= 64:
        return record
    return replace(record, format=_SMALL, bytes_after=round(elements(record) * _SMALL_BITS / 8))

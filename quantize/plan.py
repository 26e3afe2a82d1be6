"""Which format each weight gets: one function from names, shapes and roles to formats.

Boundary: no data is read. Measured reasons: a 4-bit head alone costs as much KL divergence as the whole 4-bit body, an
INT8 head nearly nothing, and one that is screened at 4 bits a third of it with the same first choices; encoders lose
accuracy at 4 bits and none at 8; a block of 32 is 15 % slower than one of 64. With blocks of 256 products of a prompt
are a sixth faster than with 128, and searched grids still lose less than rounding to the nearest does with 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .formats import LARGEST_BLOCK, SMALLEST_BLOCK, BlockFormat, FloatFormat, Format, ScreenedFormat

Role = Literal["linear", "head", "embedding", "tied", "encoder", "lora", "float"]
"""What a weight is for.

linear: a matrix product of the decoder; head: the one that makes logits; embedding: a table that is looked up; tied:
both of these at once; encoder: a matrix product of a vision or speech encoder or of its projector; lora: a factor of an
adapter; float: everything that stays as it is (norms, biases, convolutions, position and rotary tables).
"""

PRECISIONS = ("int4", "int8", "fp16", "fp32")
PRESETS = {"fast": 256, "balanced": 64, "quality": 32}
"""Preset → block size of the decoder's 4-bit weights."""

SCREENING = ("fast",)
"""Presets whose head is screened, where the device takes it."""

_SCREEN_BLOCK = 128
_SMALLEST_SCREENED = 1024  # rows: fewer cost less than finding the best of them
_FEWEST_CANDIDATES, _MOST_CANDIDATES, _CANDIDATE_SHARE = 16, 256, 32
_INT8_BLOCK = 128
_LORA_BLOCK = 64  # ranks of 256 and 320 are multiples of it
_SMALLEST_MATMUL_BLOCK = 32  # the kernel for blocks of 16 is eight times slower


@dataclass(frozen=True)
class Weight:
    """A weight of a graph: `shape` is (outputs, inputs) for products and (rows, width) for tables."""

    name: str
    shape: tuple[int, ...]
    role: Role


def plan(
    weights: Sequence[Weight], precision: str, preset: str, *, encoder_precision: str | None = None,
    adapter_precision: str | None = None, largest_block: int = LARGEST_BLOCK, screens: bool = False,
) -> dict[str, Format]:
    """The format of every weight by name. Raises ValueError for a precision or a preset that does not exist.

    Encoders and adapters follow `precision`, but at INT8 where that is INT4, unless their own precision is given.
    `largest_block`: that the device takes; `screens`: whether it may find its logits in two stages.
    What cannot be cut into blocks (not a matrix, or with fewer inputs than the smallest block) stays float32.
    """
    for asked in (precision, encoder_precision, adapter_precision):
        if asked is not None and asked not in PRECISIONS:
            raise ValueError(f"precision {asked!r} is not known: choose one of {', '.join(PRECISIONS)}")
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is not known: choose one of {', '.join(PRESETS)}")
    by_role = {"encoder": beside(precision, encoder_precision), "lora": beside(precision, adapter_precision)}
    block = min(PRESETS[preset], largest_block)
    formats = {weight.name: _format(weight, by_role.get(weight.role, precision), block) for weight in weights}
    if not screens or precision != "int4" or preset not in SCREENING:
        return formats
    return formats | {
        weight.name: _screened(weight) or formats[weight.name]
        for weight in weights if weight.role in ("head", "tied")
    }


def beside(precision: str, own: str | None) -> str:
    """The precision of an encoder or an adapter beside a decoder of `precision`: its own, INT8 at the least if not."""
    return own or ("int8" if precision == "int4" else precision)


def _format(weight: Weight, precision: str, block_size: int) -> Format:
    if weight.role == "float" or len(weight.shape) != 2 or precision == "fp32":
        return FloatFormat("float32")
    if precision == "fp16":
        return FloatFormat("float16")
    if weight.role in ("linear", "encoder", "lora") and precision == "int4":
        wanted = BlockFormat(4, block_size)
    else:
        wanted = BlockFormat(8, _LORA_BLOCK if weight.role == "lora" else _INT8_BLOCK, symmetric=True)
    looked_up = weight.role in ("embedding", "tied")
    return _fitting(wanted, weight.shape[1], looked_up) or FloatFormat("float32")


def _screened(weight: Weight) -> ScreenedFormat | None:
    """A head in two forms; None where it is too small for that or does not fit into blocks."""
    rows, inputs = weight.shape
    screen = _fitting(BlockFormat(4, _SCREEN_BLOCK), inputs, looked_up=False)
    exact = _fitting(BlockFormat(8, _INT8_BLOCK, symmetric=True), inputs, looked_up=True)
    if rows < _SMALLEST_SCREENED or screen is None or exact is None:
        return None
    return ScreenedFormat(screen, exact, max(_FEWEST_CANDIDATES, min(_MOST_CANDIDATES, rows // _CANDIDATE_SHARE)))


def _fitting(wanted: BlockFormat, inputs: int, looked_up: bool) -> BlockFormat | None:
    """`wanted`, with smaller blocks where they divide the inputs and its own do not; None where no block fits.

    Only the CPU computes padded blocks rightly on every version, so a dividing block is better than a padded one. A
    table that is looked up has no padding at all.
    """
    smallest = SMALLEST_BLOCK if looked_up else _SMALLEST_MATMUL_BLOCK
    size = wanted.block_size
    while inputs % size and size > smallest:
        size //= 2
    if inputs % size == 0:
        return BlockFormat(wanted.bits, size, wanted.symmetric)
    return None if looked_up or inputs < smallest else wanted

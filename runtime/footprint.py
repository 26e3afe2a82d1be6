"""How much memory a loaded bundle takes: arithmetic over its manifest, nothing is opened.

Boundary: a manifest and a number of tokens in, bytes out. The rules are those of ONNX Runtime's CPU provider, measured
on x86-64: it keeps a packed copy of every weight that is multiplied and lets go of the mapped original, so memory
follows the packed size and not that of the file.

- A block of a MatMulNBits weight takes its codes, a float32 scale and a float32 sum; the scales that were stored as
  float16 stay beside it as float32, the result of their Cast.
- Of a screened head ("exact+screen") only the screen is multiplied; the exact form is looked up, its scales apart.
- A float16 weight is cast when it is loaded: it takes what a float32 one takes.
- A table that is only looked up stays in its file; a token brings in one page.
- An INT8 cache takes a byte a number, and its scales next to nothing. Where a step of the prompt writes to it, it
  writes the whole buffer, room for growth included; and the old positions of one layer at a time become float32, in
  which form they go into attention and come out of it once more.
- Scores of attention are (heads, positions of a step, positions so far) float32, and the arena holds about a third
  more than the largest of them; a step of prefill holds a few copies of its widest activations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from . import providers
from .cache import BLOCK, grown
from .decode import CHUNK, FEWEST, SCORE_BYTES
from .manifest import Manifest, TensorRecord
from .prefix_cache import MEMORY_BYTES

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LINEAR = "model.layers.0.mlp.down_proj.weight"  # of the first layer; those of the others are like it
ON_DEMAND = re.compile(r"(vision|speech)\.|.*\.lora_[AB]\.")
TOKENIZER = "tokenizer.json"

_BLOCKS = re.compile(r"(u?)int(\d+)-block(\d+)")
_FLOAT_BITS, _PACKED_BITS, _SCALE_BITS, _STORED_SCALE_BITS = 32, 64, 32, 16
# Measured: Python with its libraries and ONNX Runtime's session; a tokenizer by its entries and the bytes of its file.
_PROGRAM, _TOKENIZER_ENTRY, _TOKENIZER_BYTE = 75 << 20, 160, 4.1
_SCORES_HELD = 1.35
# Of each number of the old positions: its code, its float32 and what attention returns of it; and a float32 that is not
# scaled yet, of keys and values in turn.
_DEQUANTIZED_BYTES = 1 + 4 + 4 + 4 / 2


@dataclass(frozen=True)
class Blocks:
    """Codes of `bits` bits in blocks of `size`, with or without stored zero points."""

    bits: int
    size: int
    zero_points: bool


@dataclass(frozen=True)
class Footprint:
    """Bytes. `on_demand` is what encoders and adapters add with the first picture or recording, their activations not
    counted; `kept` is what earlier conversations and media may take at most where sessions keep them.
    """

    program: int
    weights: int
    cache: int
    activations: int
    on_demand: int
    kept: int = MEMORY_BYTES

    @property
    def total(self) -> int:
        """Of text alone."""
        return self.program + self.weights + self.cache + self.activations


def footprint(manifest: Manifest, context: int, kv: str = "float") -> Footprint:
    """Memory of a session whose conversation has grown to `context` tokens, with keys and values kept as `kv` says:
    "float" or "int8".
    """
    tied = all(record.name != HEAD for record in manifest.report)
    needed = [record for record in manifest.report if tied or record.name != EMBEDDING]
    sizes = {record.name: resident(record) for record in needed}
    on_demand = sum(size for name, size in sizes.items() if ON_DEMAND.match(name))
    tokenizer = manifest.files.get(TOKENIZER)
    read = _TOKENIZER_ENTRY * manifest.text.vocab_size + _TOKENIZER_BYTE * (tokenizer.size if tokenizer else 0)
    program = _PROGRAM + round(read)
    touched = context if kv == "float" else _capacity(context)
    added = sum(manifest.files[file].size for file in {adapter.file for adapter in manifest.adapters.values()})
    return Footprint(
        program, sum(sizes.values()) - on_demand + added, touched * bytes_per_position(manifest, kv),
        activations(manifest, context, kv), on_demand,
    )


def bytes_per_position(manifest: Manifest, kv: str = "float") -> int:
    """Of keys and values."""
    text, dtype = manifest.text, "int8" if kv == "int8" else providers.find(manifest.device).activation_dtype
    return 2 * text.layers * text.kv_heads * text.head_dim * np.dtype(dtype).itemsize


def _capacity(context: int) -> int:
    """Of a cache that has grown to `context` tokens step by step of a prompt."""
    capacity = BLOCK
    for length in (*range(CHUNK, context, CHUNK), context):
        capacity = grown(capacity, length)
    return capacity


def resident(record: TensorRecord) -> int:
    """Bytes that ONNX Runtime holds for a weight that is multiplied."""
    forms = blocks(record.format)
    if not forms:
        return round(elements(record) * _FLOAT_BITS / 8)
    bits = forms[-1].bits + _PACKED_BITS / forms[-1].size + sum(_SCALE_BITS / form.size for form in forms)
    return round(elements(record) * bits / 8)


def elements(record: TensorRecord) -> int:
    """How many values a weight has, from its format and its bytes."""
    forms = blocks(record.format)
    if not forms:
        return record.bytes_after // np.dtype(record.format).itemsize
    stored = sum(
        form.bits + (_STORED_SCALE_BITS + (form.bits if form.zero_points else 0)) / form.size for form in forms
    )
    return round(record.bytes_after * 8 / stored)


def blocks(written: str) -> tuple[Blocks, ...]:
    """The forms of a format in blocks, the multiplied one last; none of a float format."""
    forms = [_BLOCKS.fullmatch(form) for form in written.split("+")]
    return tuple(Blocks(int(form[2]), int(form[3]), bool(form[1])) for form in forms if form is not None)


def activations(manifest: Manifest, context: int, kv: str = "float") -> int:
    """Of the largest step of a prefill up to `context` tokens."""
    text = manifest.text
    step = min(CHUNK, context)
    scores = max(min(SCORE_BYTES, 4 * text.heads * step * context), 4 * text.heads * min(FEWEST, step) * context)
    fused = (text.heads + 2 * text.kv_heads) * text.head_dim
    widths = 7 * intermediate(manifest) + 2 * fused + 3 * text.hidden_size
    old = 0 if kv == "float" else 2 * text.kv_heads * text.head_dim * (context - step)
    return round(4 * step * widths + _SCORES_HELD * scores + _DEQUANTIZED_BYTES * old)


def intermediate(manifest: Manifest) -> int:
    """Width of the feed-forward part; 0 where the manifest does not say."""
    down = next((record for record in manifest.report if record.name == LINEAR), None)
    return 0 if down is None else round(elements(down) / manifest.text.hidden_size)

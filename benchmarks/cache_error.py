"""What an INT8 cache of keys and values costs in answers: the same bundle over both caches, token by token.

Boundary: a bundle of the demo's text (`deepen --layers 5`) and its held-out questions; the float cache of the same
bundle is the reference, so nothing but the cache differs. A prompt in one step sees its keys and values before they are
rounded, as in use; in steps of eight positions everything that attention sees of earlier ones has been rounded, the
worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgephi.demo.conversations import answer_ids, prompt_ids
from edgephi.demo.tasks import TASKS, held_out
from edgephi.runtime import int8_cache, providers
from edgephi.runtime.decode import Decoder
from edgephi.runtime.graphs import Interrupt
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.model import Model
from edgephi.runtime.prefix_cache import find
from edgephi.runtime.rotary import RotaryTables

from . import result_files
from .quality import clustered_error, kl_divergence

NAME = "cache_error"
SEED = 2026
STEP = 8  # positions: the most that attention reads from the INT8 cache itself


@dataclass(frozen=True)
class CacheError:
    """How far next-token distributions are apart over `positions` positions, in nats; how often the first choice is
    the same; bytes of one position's keys and values in each cache.
    """

    kind: str
    positions: int
    mean: float
    standard_error: float
    maximum: float
    agreement: float
    float_bytes: int
    int8_bytes: int


def measure(bundle: Path, examples: int, threads: int) -> list[CacheError]:
    """Compare both caches on `examples` held-out questions of each task, with their right answers."""
    manifest, words = read_manifest(bundle), Tokenizer.from_file(str(bundle / "tokenizer.json"))
    provider, tables = providers.find(manifest.device), RotaryTables.open(bundle, manifest.text, None)
    calibration = words.encode(int8_cache.CALIBRATION_TEXT, add_special_tokens=False).ids
    caches = [
        Model(bundle, manifest, provider, threads, tables, find(False), calibration=ids)
        for ids in (None, lambda: calibration)
    ]
    conversations = [
        (prompt_ids(words, example), answer_ids(words, example))
        for task in TASKS for example in held_out(task, examples, SEED)
    ]
    floats, int8 = (model.decoder for model in caches)
    found = []
    for kind, whole in (("the prompt in one step, then token by token", True), (f"all in steps of {STEP}", False)):
        apart, same = [], []
        for prompt, answer in conversations:
            first, step = (len(prompt), 1) if whole else (STEP, STEP)
            expected, made = (_logits(decoder, [*prompt, *answer], first, step) for decoder in (floats, int8))
            apart.append(kl_divergence(expected, made))
            same.append(expected.argmax(-1) == made.argmax(-1))
        every = np.concatenate(apart)
        found.append(CacheError(
            kind, len(every), float(every.mean()), clustered_error(apart), float(every.max()),
            float(np.concatenate(same).mean()), floats.cache.shape.bytes_per_position,
            int8.cache.shape.bytes_per_position,
        ))
    for model in caches:
        model.close()
    return found


def _logits(decoder: Decoder, ids: Sequence[int], first: int, step: int) -> np.ndarray:
    """Behind all positions but those of the first step, in steps: float32 (n, vocab)."""
    interrupt = Interrupt()
    decoder.clear()
    decoder.advance(ids[:first], interrupt)
    parts = [
        decoder.extend(ids[start : start + step], interrupt)[0].copy() for start in range(first, len(ids), step)
    ]
    return np.concatenate(parts)


def write(found: Sequence[CacheError], results: Path) -> None:
    """Write cache_error.json and cache_error.md into the folder `results`."""
    record = result_files.circumstances() | {"errors": [asdict(one) for one in found]}
    result_files.write(results, NAME, record, table(found))


def table(found: Sequence[CacheError]) -> str:
    """Markdown."""
    lines = [
        "# What an INT8 cache costs in answers\n",
        "Held-out questions to the demo's checkpoint with their right answers: KL divergence from the same bundle over "
        "its float32 cache, in nats, and how often the first choice is the same.\n",
        "| read | positions | mean | largest | first choice |", "|---|---:|---:|---:|---:|",
        *(
            f"| {one.kind} | {one.positions} | {one.mean:.2g} ± {one.standard_error:.1g} | {one.maximum:.2g} | "
            f"{one.agreement:.2%} |" for one in found
        ),
        f"\nA position takes {found[0].int8_bytes} bytes instead of {found[0].float_bytes}.\n",
    ]
    return "\n".join(lines)

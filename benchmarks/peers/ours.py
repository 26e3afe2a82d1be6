"""edgephi itself, through its command line and its public session.

What a variant prepares the first time, weights to be mapped or scales of an INT8 cache, lies inside the model's folder:
it counts as disk, and is dropped from memory before a cold start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .peer import Command, Conversion, Pause, Peer, call, go_on

_PREPARED = "cache"  # in the model's folder
_MAPPED, _INT8 = "mapped", "int8-cache"  # in the names of variants that prepare something


class _Engine:
    def __init__(self, model: Path, threads: int, context: int) -> None:
        import edgephi

        mapped, int8 = _MAPPED in model.name, _INT8 in model.name
        if mapped or int8:
            os.environ["XDG_CACHE_HOME"] = str(model / _PREPARED)
        # What was read before is never read again, unless it is told to forget.
        self._session = edgephi.load(
            model, threads=threads, prefix_cache=False, mapped=mapped, kv="int8" if int8 else "float",
        )

    def answer(self, tokens: Sequence[int], steps: int, pause: Pause = go_on) -> list[float]:
        self._session.clear()
        seconds, last = [], time.perf_counter()
        # Without drafts: random text repeats itself, and guessing repetitions would flatter the rate.
        for piece in self._session.stream(list(tokens), max_tokens=steps + 1, temperature=0.0, draft=False):
            if piece.token_id is not None:
                seconds.append(time.perf_counter() - last)
                pause()
                last = time.perf_counter()
        return seconds


def _convert(conversion: Conversion) -> Sequence[Command]:
    export = (
        "-m", "edgephi", "export", str(conversion.checkpoint), "-o", str(conversion.target), "--precision", "int4",
        "--preset", conversion.variant.partition("-")[0], "--json",
    )
    if not any(name in conversion.variant for name in (_MAPPED, _INT8)):
        return [export]
    return [export, call("ours", "prepare", model=str(conversion.target), threads=conversion.threads)]


def _prepare(model: str, threads: int) -> None:
    """Let a first session make what later ones find."""
    _Engine(Path(model), threads, 0)


def _variables() -> Mapping[str, str]:
    from edgephi.runtime import large_pages

    return large_pages.variables()


PEER = Peer(
    name="ours",
    title="edgephi",
    requirements=(),
    environment={},
    variants={
        "balanced": "INT4 in blocks of 64, searched grids, INT8 head",
        "fast": "INT4 in blocks of 256, searched grids, INT8 head behind an INT4 screen",
        "fast-int8-cache": "the same, keys and values kept as INT8 (`--kv int8`)",
        "fast-int8-cache-mapped": "the same, its weights mapped from a file prepared for this processor (`--mapped`)",
    },
    convert=_convert,
    open=_Engine,
    verbs={"prepare": _prepare},
    variables=_variables,
)

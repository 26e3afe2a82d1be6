"""edgephi itself, through its command line and its public session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from .peer import Command, Conversion, Peer


class _Engine:
    def __init__(self, model: Path, threads: int, context: int) -> None:
        import edgephi

        # What was read before is never read again, unless it is told to forget.
        self._session = edgephi.load(model, threads=threads, prefix_cache=False)

    def answer(self, tokens: Sequence[int], steps: int) -> list[float]:
        self._session.clear()
        seconds, last = [], time.perf_counter()
        # Without drafts: random text repeats itself, and guessing repetitions would flatter the rate.
        for piece in self._session.stream(list(tokens), max_tokens=steps + 1, temperature=0.0, draft=False):
            if piece.token_id is not None:
                now = time.perf_counter()
                seconds.append(now - last)
                last = now
        return seconds


def _convert(conversion: Conversion) -> Sequence[Command]:
    return [(
        "-m", "edgephi", "export", str(conversion.checkpoint), "-o", str(conversion.target), "--precision", "int4",
        "--preset", conversion.variant, "--json",
    )]


PEER = Peer(
    name="ours",
    title="edgephi",
    requirements=(),
    environment={},
    variants={
        "balanced": "INT4 in blocks of 64, searched grids, INT8 head",
        "fast": "INT4 in blocks of 128, searched grids, INT8 head",
    },
    convert=_convert,
    open=_Engine,
    verbs={},
)

"""What the loop around ONNX Runtime costs: the time of a token beyond the run of its graph.

Boundary: the public session on a bundle; the runs of its graphs are timed from outside.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest import mock

import edgephi
from edgephi.runtime.graphs import Binding, Interrupt

from .texts import TEXT_SHARE


@dataclass(frozen=True)
class Overhead:
    """Medians over the tokens of an answer behind `prompt` tokens: seconds of a token, and of it outside the run."""

    prompt: int
    token: float
    outside: float


def measure(bundle: Path, threads: int, prompt: int, tokens: int = 64) -> Overhead:
    """Let a session answer without drafts, greedily, as `edgephi bench` does."""
    inside: list[float] = []
    run = Binding.run

    def timed(binding: Binding, interrupt: Interrupt) -> None:
        started = time.perf_counter()
        run(binding, interrupt)
        inside.append(time.perf_counter() - started)

    moments = []
    with mock.patch.object(Binding, "run", timed), edgephi.load(bundle, threads=threads, prefix_cache=False) as session:
        allowed = range(int(TEXT_SHARE * session.manifest.text.vocab_size))
        ids = random.Random(0).choices(allowed, k=prompt)
        for piece in session.stream(ids, max_tokens=tokens, temperature=0.0, draft=False):
            if piece.token_id is not None:
                moments.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(moments)]
    # the run before the first token is that of the prompt
    outside = [step - seconds for step, seconds in zip(steps, inside[-len(steps) :], strict=True)]
    return Overhead(prompt, statistics.median(steps), statistics.median(outside))

"""What the token costs at which a LongRoPE model changes its rotary table: in an ordinary session, whose history is
read again with the other table, and in one that was opened for a long context.

Boundary: a public session on a bundle whose weights may be random. Needs a model with more than one table.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import edgephi
from edgephi.runtime.errors import RequestError
from edgephi.runtime.manifest import read_manifest

from . import machine, result_files
from .texts import TEXT_SHARE

NAME = "switch_cost"
BEFORE, BEHIND = 6, 6  # tokens of the answer on both sides of the limit


@dataclass(frozen=True)
class Switch:
    """Seconds: of reading the prompt, of a token before the limit (median), of the slowest token, and of one behind it
    (median); `recomputed` positions were read again.
    """

    opened_for: int | None
    prompt: int
    prefill: float
    before: float
    slowest: float
    behind: float
    recomputed: int


def measure(bundle: Path, threads: int) -> list[Switch]:
    """Answer across the limit in both kinds of sessions. Raises RequestError for a model with one table."""
    text = read_manifest(bundle).text
    if len(text.rotary) < 2:
        raise RequestError(f"{bundle} has one rotary table for all lengths: measure a LongRoPE model")
    limit, found = text.rotary[0].limit, []
    ids = random.Random(0).choices(range(int(TEXT_SHARE * text.vocab_size)), k=limit - BEFORE)
    for context in (None, min(2 * limit, text.context_length)):
        moments = []
        with edgephi.load(bundle, threads=threads, prefix_cache=False, context=context) as session:
            session.generate(ids[:64], max_tokens=2)  # warm
            session.clear()
            started = time.perf_counter()
            for piece in session.stream(ids, max_tokens=BEFORE + BEHIND, temperature=0.0, draft=False):
                if piece.token_id is not None:
                    moments.append(time.perf_counter())
                usage = piece.usage
        if usage is None or len(moments) < BEFORE + 2:
            raise RequestError(f"{bundle} ended its answer before the limit of {limit} tokens: measure another")
        steps = [after - before for before, after in pairwise(moments)]
        found.append(Switch(
            context, len(ids), moments[0] - started, statistics.median(steps[: BEFORE - 1]), max(steps),
            statistics.median(steps[BEFORE + 1 :] or steps[-1:]), usage.recomputed_tokens,
        ))
    return found


def write(bundle: str, threads: int, found: list[Switch], results: Path) -> None:
    """Write switch_cost.json and switch_cost.md into the folder `results`."""
    record = {
        "bundle": bundle, "threads": threads, **result_files.circumstances(),
        "switches": [asdict(one) for one in found],
    }
    result_files.write(results, NAME, record, table(bundle, threads, found))


def table(bundle: str, threads: int, found: list[Switch]) -> str:
    """Markdown."""
    rows = [
        f"| {'all lengths' if one.opened_for is None else f'{one.opened_for} tokens'} | {one.prompt} | "
        f"{one.prefill:.1f} s | {one.before * 1e3:.0f} ms | {one.slowest * 1e3:.0f} ms "
        f"({one.slowest / one.prefill:.2f} of reading the prompt) | {one.behind * 1e3:.0f} ms | {one.recomputed} |"
        for one in found
    ]
    return "\n".join([
        f"# What it costs to change the rotary table: {bundle}\n",
        f"{machine.describe()['processor']}, {threads} threads, {datetime.now(UTC).date().isoformat()}.\n",
        "| opened for | prompt | read in | a token before | slowest token | a token behind | read again |",
        "|---|---:|---:|---:|---:|---:|---:|", *rows, "",
    ])

"""Decode speeds of runtimes that are in memory at once and take turns every few tokens.

Boundary: starts one process a contender and says whose turn it is; what they do is said in peers/. The memory of a
shared machine has fast and slow minutes, which no order of whole runs evens out: here each contender meets all of them.
A ratio is the median of those of the rounds, and in a round all decode behind nearly the same number of tokens.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgephi.runtime.errors import RequestError

from . import machine, result_files
from .comparison_report import OURS
from .environments import Contender
from .peers.peer import WORKER
from .peers.worker import TURN
from .texts import TEXT_SHARE

NAME = "turns"


@dataclass(frozen=True)
class Round:
    """Behind `length` tokens and those made since: the median seconds of a token, by contender."""

    length: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """All rounds of contenders that were in memory at once; `burst` tokens a turn."""

    checkpoint: str
    threads: int
    burst: int
    rounds: tuple[Round, ...]
    described: dict[str, str]
    date: str
    machine: dict[str, str | int]

    @property
    def lengths(self) -> list[int]:
        """Of the prompts."""
        return sorted({each.length for each in self.rounds})

    def ratios(self, ours: str, other: str, length: int) -> list[float]:
        """How many times longer the other's token takes than ours, round by round."""
        return [each.seconds[other] / each.seconds[ours] for each in self.rounds if each.length == length]


def measure(
    contenders: Sequence[Contender], lengths: Sequence[int], rounds: int, burst: int, threads: int, vocabulary: int,
    checkpoint: str, say: Callable[[str], None],
) -> Measured:
    """Take `rounds` turns behind each of `lengths` tokens.

    Raises RequestError when a contender fails, and for one that would compute while it is another's turn.
    """
    restless = [each.name for each in contenders if not each.peer.pauses]
    if restless:
        raise RequestError(f"{', '.join(restless)} goes on while others have their turn: leave it to `peers`")
    found = [
        each for length in lengths
        for each in _rounds(contenders, length, rounds, burst, threads, int(TEXT_SHARE * vocabulary), say)
    ]
    described = {each.name: f"{each.peer.title}, {each.peer.variants[each.variant]}" for each in contenders}
    return Measured(
        checkpoint, threads, burst, tuple(found), described, datetime.now(UTC).date().isoformat(), machine.describe()
    )


def _rounds(
    contenders: Sequence[Contender], length: int, rounds: int, burst: int, threads: int, tokens: int,
    say: Callable[[str], None],
) -> Iterator[Round]:
    with _started(contenders, length, rounds * burst, burst, threads, tokens, say) as children:
        for number in range(rounds):
            seconds = {}
            for name, child in children.items():
                assert child.stdin is not None
                child.stdin.write("\n")
                child.stdin.flush()
                seconds[name] = statistics.median(_told(name, child))
            say(f"{length}, round {number + 1} of {rounds}: " + ", ".join(
                f"{name} {taken * 1e3:.1f} ms" for name, taken in seconds.items()
            ))
            yield Round(length, seconds)


@contextmanager
def _started(
    contenders: Sequence[Contender], length: int, steps: int, burst: int, threads: int, tokens: int,
    say: Callable[[str], None],
) -> Iterator[Mapping[str, subprocess.Popen[str]]]:
    """Processes that have read the prompt and wait."""
    children: dict[str, subprocess.Popen[str]] = {}
    try:
        for each in contenders:
            say(f"{each.name} reads {length} tokens")
            arguments = {
                "model": str(each.model), "threads": threads, "tokens": tokens, "length": length, "steps": steps,
                "burst": burst,
            }
            command = [each.python, str(WORKER), each.peer.name, "take_turns", json.dumps(arguments)]
            children[each.name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, **each.peer.variables()},
            )
            _told(each.name, children[each.name])
        yield children
    finally:
        for child in children.values():
            child.kill()
            child.communicate()


def _told(name: str, child: subprocess.Popen[str]) -> list[float]:
    """What a contender reports when its turn is over; a runtime may print lines of its own."""
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(TURN):
            told: list[float] = json.loads(line.removeprefix(TURN))
            return told
    raise RequestError(f"{name} ended before its turn: see its message above, and whether memory is free for all")


def write(measured: Measured, results: Path) -> str:
    """Write turns.json and turns.md into the folder `results`; what other contenders did stays. Returns the table."""
    path = results / f"{NAME}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    before = [_read(record) for record in known]
    kept = [each for each in before if list(each.described) != list(measured.described)]
    every = [*kept, measured]
    text = "# Decoding in turns\n\n" + "\n".join(map(table, every))
    result_files.write(results, NAME, [asdict(each) for each in every], text)
    return text


def _read(record: dict[str, Any]) -> Measured:
    return Measured(**{**record, "rounds": tuple(Round(**each) for each in record["rounds"])})


def table(measured: Measured) -> str:
    """Markdown: milliseconds of each contender, and the ratios of each of ours to the others."""
    names, where = list(measured.described), measured.machine
    ours = [name for name in names if name.startswith(f"{OURS}:")]
    others = [name for name in names if name not in ours]
    lines = [
        f"{measured.checkpoint}, {measured.threads} threads each, {measured.burst} tokens a turn, all in memory at "
        f"once; {where['processor']}, {where['processors']} processors, {where['system']}, {measured.date}. "
        "Milliseconds of a token: the median [least–most] of the rounds' medians.\n",
        *(f"- `{name}`: {text}" for name, text in measured.described.items()),
        "",
        "| behind | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---:|" + "---:|" * len(names),
    ]
    for length in measured.lengths:
        cells = []
        for name in names:
            taken = [each.seconds[name] * 1e3 for each in measured.rounds if each.length == length]
            cells.append(f"{statistics.median(taken):.1f} [{min(taken):.1f}–{max(taken):.1f}]")
        lines.append(f"| {length} | " + " | ".join(cells) + " |")
    for own in ours:
        lines += [
            "",
            f"| `{own}` is faster by, behind | " + " | ".join(f"`{name}`" for name in others) + " |",
            "|---:|" + "---:|" * len(others),
        ]
        for length in measured.lengths:
            ratios = [measured.ratios(own, other, length) for other in others]
            cells = [f"{statistics.median(each):.2f} [{min(each):.2f}–{max(each):.2f}]" for each in ratios]
            lines.append(f"| {length} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"

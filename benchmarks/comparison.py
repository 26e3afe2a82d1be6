"""Measures runtimes side by side on the same weights: A B C A B C …, each run in a fresh process.

Boundary: starts processes and reads their reports; what they do is said in peers/. The rounds are interleaved because
the memory of a shared machine changes its speed within minutes, and what other programs did meanwhile is noted.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgephi.runtime.errors import RequestError
from edgephi.runtime.memory import available_memory

from . import processes
from .environments import Contender
from .limits import Probe
from .peers.peer import WORKER
from .texts import TEXT_SHARE

SAMPLE_SECONDS = 0.05  # a rarer look at /proc than for exports: it takes time from what is measured
FIRST = 64  # tokens of the prompt whose first token ends the start
ORIGINAL_CONTEXT = 4096  # Phi-4-mini turns longer sequences with another rotary table
_PLAN = re.compile(r"(\d+):(\d+)")
_CHUNK = 16 << 20
WOKEN = 3  # times the model's files: those, what is packed of them, keys and values


@dataclass(frozen=True)
class Stage:
    """A prompt of `length` tokens and `steps` tokens after the first, in the first `rounds` rounds."""

    length: int
    rounds: int
    steps: int

    @classmethod
    def parse(cls, text: str, steps: int) -> Stage:
        """`512:4`, which is length and rounds. 4096 begins so that its last step still fits. Raises RequestError."""
        found = _PLAN.fullmatch(text)
        if found is None or not int(found[1]) or not int(found[2]):
            raise RequestError(f"a stage is LENGTH:ROUNDS, such as 512:4; found {text!r}")
        length = int(found[1])
        return cls(length - steps - 1 if length == ORIGINAL_CONTEXT else length, int(found[2]), steps)


@dataclass(frozen=True)
class Answer:
    """One prompt: seconds to its first token and of each further one; memory in bytes when it was done."""

    length: int
    first: float
    steps: tuple[float, ...]
    peak_resident: int
    anonymous: int


@dataclass(frozen=True)
class Run:
    """One process of a contender. Seconds and bytes.

    `cold`: the model's files were not in memory, as far as this system keeps them. `load`, `first_token`: since the
    process was made. `bandwidth`: bytes a second that the same number of
    threads read just before. `others`: processors that other
    programs kept busy meanwhile; those make a run worthless where they are more than a little.
    """

    contender: str
    round: int
    cold: bool
    bandwidth: float
    others: float
    load: float
    first_token: float
    answers: tuple[Answer, ...]
    peak_resident: int
    peak_anonymous: int
    cpu_seconds: float
    seconds: float


def measure(
    contenders: Sequence[Contender], stages: Sequence[Stage], threads: int, vocabulary: int,
    say: Callable[[str], None],
) -> Iterator[Run]:
    """All rounds; every other one starts cold, the first among them. Raises RequestError when a contender fails."""
    tokens = int(TEXT_SHARE * vocabulary)
    rounds = max(stage.rounds for stage in stages)
    with Probe(threads) as probe:
        for number in range(rounds):
            plan = [(FIRST, 0), *((stage.length, stage.steps) for stage in stages if number < stage.rounds)]
            for contender in contenders:
                run = _run(contender, number, plan, threads, tokens, probe, cold=number % 2 == 0)
                say(_shown(run, rounds))
                yield run


def _run(
    contender: Contender, number: int, plan: list[tuple[int, int]], threads: int, tokens: int, probe: Probe, *,
    cold: bool,
) -> Run:
    for path in sorted(contender.model.rglob("*")):
        if path.is_file():
            (_forget if cold else _remember)(path)
    arguments = {
        "model": str(contender.model), "threads": threads, "tokens": tokens, "stages": plan,
        "context": max(length + steps + 1 for length, steps in plan),
    }
    _wake_memory(WOKEN * contender.disk)
    bandwidth = probe.measure().read_bytes
    busy, started = _busy_seconds(), time.monotonic()
    text = json.dumps(arguments | {"started": started})
    command = [contender.python, str(WORKER), contender.peer.name, "measure", text]
    usage = processes.run(command, SAMPLE_SECONDS, contender.peer.variables())
    others = (_busy_seconds() - busy - usage.cpu_seconds) / (time.monotonic() - started)
    # a runtime may print lines of its own
    report = json.loads(usage.output.splitlines()[-1])
    first, *further = report["stages"]
    answers = tuple(
        Answer(item["length"], item["first"], tuple(item["steps"]), item["peak_resident"], item["anonymous"])
        for item in further
    )
    return Run(
        contender.name, number, cold, bandwidth, round(others, 3), report["loaded"]["at"], first["at"], answers,
        usage.peak_resident, usage.peak_anonymous, usage.cpu_seconds, usage.seconds,
    )


def _wake_memory(size: int) -> None:
    """Use so many bytes of memory, or half of what is free, and give them back.

    A virtual machine gets pages that were not used lately from its host, at up to two seconds a gigabyte: whoever runs
    after a pause would pay for it.
    """
    size = min(size, (available_memory() or 0) // 2)
    with mmap.mmap(-1, max(size, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def _forget(path: Path) -> None:
    """Let the system drop its copy of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # only what is on disk can be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remember(path: Path) -> None:
    """Let the system keep a copy of a file in memory."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_CHUNK)
        while file.readinto(buffer):
            pass


def _busy_seconds() -> float:
    """Processor seconds that all programs of this machine used so far, its guests' among them."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = (int(field) for field in fields)
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def _shown(run: Run, rounds: int) -> str:
    speeds = ", ".join(f"{answer.length}: {answer.length / answer.first:.0f} t/s" for answer in run.answers)
    return (
        f"round {run.round + 1} of {rounds}, {run.contender}: {speeds}; first token after {run.first_token:.1f} s; "
        f"others {run.others:.2f}; {run.bandwidth / 1e9:.0f} GB/s before"
    )

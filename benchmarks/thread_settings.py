"""Threads and spinning: what a token takes on one core, on two, and on two of which one is slower.

    python -m edgephi.benchmarks.thread_settings BUNDLE --threads 2 --core 0 --core 1 --spin 50

Boundary: a decoder of a bundle whose weights may be random; each setting in a process of its own, which prints one line
of JSON. A slower core is an ordinary one that another program takes for half of every few milliseconds. Linux only:
processes are bound to cores.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from edgephi.runtime import providers
from edgephi.runtime.errors import RequestError
from edgephi.runtime.graphs import Interrupt
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.model import Model
from edgephi.runtime.prefix_cache import find
from edgephi.runtime.rotary import RotaryTables

from . import machine, processes, result_files

NAME = "thread_settings"
PROMPT, TOKENS, TOKEN = 64, 32, 5  # how many are read, how many follow, and which one, always the same
PAUSE = 0.02  # seconds between tokens where a reader is waited for
SPIN, NO_SPIN = "session.intra_op.spin_duration_us", "session.intra_op.allow_spinning"
SPINS = (None, 0, 50, 1000)  # µs; 0: none, None: until there is work, as ONNX Runtime does by itself
# name → cores of the process, threads, whether the last core is taken half of the time
CASES = {
    "one core": (1, 1, False), "two cores": (2, 2, False), "two, one of them slower": (2, 2, True),
    "two, one of them slower, one thread": (2, 1, True),
}
_BUSY = """
import time
while True:
    end = time.perf_counter() + 0.004
    while time.perf_counter() < end:
        pass
    time.sleep(0.004)
"""


@dataclass(frozen=True)
class Setting:
    """Seconds of a token (median), and processor seconds of one with a pause behind it, which spinning wastes."""

    case: str
    spin: int | None
    token: float
    processor: float


def measure(bundle: Path) -> list[Setting]:
    """Every case with every spin duration. Raises RequestError where processes cannot be bound to two cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise RequestError("threads are compared on two cores, bound to processes: run this on Linux with two of them")
    found = []
    for case, (count, threads, slower) in CASES.items():
        for spin in SPINS:
            command = [sys.executable, "-m", "edgephi.benchmarks.thread_settings", str(bundle)]
            command += ["--threads", str(threads), *(word for core in cores[:count] for word in ("--core", str(core)))]
            command += [] if spin is None else ["--spin", str(spin)]
            with _taken(cores[count - 1] if slower else None):
                told = json.loads(processes.run(command).output.splitlines()[-1])
            found.append(Setting(case, spin, told["token"], told["processor"]))
    return found


@contextmanager
def _taken(core: int | None) -> Iterator[None]:
    """Take half of a core meanwhile."""
    if core is None:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        os.sched_setaffinity(busy.pid, {core})
        yield
    finally:
        busy.kill()
        busy.wait()


def answer(bundle: Path, threads: int, spin: int | None) -> dict[str, float]:
    """Tokens one after the other, then again with a pause behind each."""
    manifest, provider = read_manifest(bundle), providers.find("cpu")
    settings = tuple(item for item in provider.session_config if item[0] != SPIN)
    if spin is not None:
        settings += ((SPIN, str(spin)),) if spin else ((NO_SPIN, "0"),)
    tables = RotaryTables.open(bundle, manifest.text, None)
    model = Model(bundle, manifest, replace(provider, session_config=settings), threads, tables, find(False))
    interrupt, seconds = Interrupt(), []
    ids = random.Random(0).choices(range(manifest.text.vocab_size // 2), k=PROMPT)
    model.decoder.advance(ids, interrupt)
    for _ in range(TOKENS):
        started = time.perf_counter()
        model.decoder.append(TOKEN, interrupt)
        seconds.append(time.perf_counter() - started)
    spent = time.process_time()
    for _ in range(TOKENS):
        model.decoder.append(TOKEN, interrupt)
        time.sleep(PAUSE)
    spent = time.process_time() - spent
    model.close()
    return {"token": statistics.median(seconds), "processor": spent / TOKENS}


def write(bundle: str, found: list[Setting], results: Path) -> None:
    """Write thread_settings.json and thread_settings.md into the folder `results`."""
    record = {"bundle": bundle, **result_files.circumstances(), "settings": [asdict(one) for one in found]}
    result_files.write(results, NAME, record, table(bundle, found))


def table(bundle: str, found: list[Setting]) -> str:
    """Markdown: milliseconds of a token, and in brackets processor milliseconds of one that is waited behind."""
    names = ["busy waiting" if spin is None else f"spin {spin} µs" if spin else "no spinning" for spin in SPINS]
    rows = []
    for case in CASES:
        mine = {one.spin: one for one in found if one.case == case}
        cells = [f"{mine[spin].token * 1e3:.1f} ({mine[spin].processor * 1e3:.0f})" for spin in SPINS if spin in mine]
        rows.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join([
        f"# Threads and spinning: {bundle}\n",
        f"{machine.describe()['processor']}, {datetime.now(UTC).date().isoformat()}. Milliseconds of a token behind "
        f"{PROMPT} others; in brackets processor milliseconds of a token with a pause of {PAUSE * 1e3:.0f} ms behind "
        "it. The slower core is taken by another program for half of every 8 ms.\n",
        f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}", *rows, "",
    ])


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1)
@click.option("--core", "cores", type=int, multiple=True)
@click.option("--spin", type=click.IntRange(min=0))
def main(bundle: Path, threads: int, cores: tuple[int, ...], spin: int | None) -> None:
    """Print what a token of BUNDLE takes."""
    if cores:
        os.sched_setaffinity(0, set(cores))
    click.echo(json.dumps(answer(bundle, threads, spin)))


if __name__ == "__main__":
    main()

"""What the prefix cache saves: the time to the first token behind a long prefix, new, from memory and from disk; and
what a loaded session costs while nobody asks it anything.

Boundary: a public session does the work. Weights may be random: nothing here depends on what is said.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgephi.runtime.loading import load
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.prefix_cache import PrefixCache
from edgephi.runtime.session import Prompt, Session

from . import machine

NAME = "prefix_cache"
QUESTION = 20  # tokens that differ behind the prefix
IDLE_SECONDS = 5.0
PICTURE = (1344, 896)  # pixels: 6 crops of 448 and the whole


@dataclass(frozen=True)
class Repeated:
    """Seconds to the first token behind one prefix.

    `interrupted`: in a session that answered something else meanwhile; that other, short prompt took `other` and pays
    for the copy, `other_alone` where there was nothing to copy. `restarted`: in a new session, from files that the
    system holds in memory; `dropped`: from files that it was told to forget.
    """

    kind: str
    prompt_tokens: int
    cached_tokens: int
    first: float
    interrupted: float
    other: float
    other_alone: float
    restarted: float
    dropped: float
    disk_bytes: int


@dataclass(frozen=True)
class Measured:
    """One bundle; `idle` is the processor time of a second in which nothing is asked."""

    bundle: str
    clock: str
    threads: int
    repeated: tuple[Repeated, ...]
    idle: float
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]


def measure(
    bundle: Path, tokens: int, threads: int, *, image: bool, processor_time: bool, idle_seconds: float = IDLE_SECONDS
) -> Measured:
    """Prefixes of `tokens` tokens, and of a picture where asked for; then `idle_seconds` of nothing."""
    drawn, half = random.Random(tokens), read_manifest(bundle).text.vocab_size // 2  # the controls are behind
    prefix = [drawn.randrange(half) for _ in range(tokens)]
    questions = [[drawn.randrange(half) for _ in range(QUESTION)] for _ in range(5)]
    prompts: dict[str, list[Prompt]] = {f"{tokens} tokens": [[*prefix, *question] for question in questions]}
    if image:
        picture = np.random.default_rng(1).integers(0, 256, (PICTURE[1], PICTURE[0], 3), np.uint8)
        from PIL import Image

        shown = Image.fromarray(picture)
        prompts["picture"] = [
            [{"role": "user", "content": [{"type": "image", "image": shown}, {"type": "text", "text": f"Why {n}?"}]}]
            for n in range(5)
        ]
    clock = time.process_time if processor_time else time.perf_counter
    found = [_repeat(bundle, kind, asked, threads, clock) for kind, asked in prompts.items()]
    with load(bundle, threads=threads) as session:
        session.generate(prefix[:50], max_tokens=4)
        started, spent = time.perf_counter(), time.process_time()
        time.sleep(idle_seconds)
        idle = (time.process_time() - spent) / (time.perf_counter() - started)
    return Measured(
        bundle.resolve().name, "processor time" if processor_time else "wall time", threads, tuple(found), idle,
        datetime.now(UTC).date().isoformat(), machine.describe(), machine.versions(),
    )


def _repeat(bundle: Path, kind: str, prompts: Sequence[Prompt], threads: int, clock: Callable[[], float]) -> Repeated:
    other: Prompt = [5, 6, 7, 8, 9, 10]
    with tempfile.TemporaryDirectory() as folder:
        with load(bundle, threads=threads, prefix_cache=PrefixCache()) as session:
            session.generate(other, max_tokens=2)  # warm
            other_alone, _ = _first_token(session, [3, 4, *other], clock)
            first, _ = _first_token(session, prompts[0], clock)
            copied, _ = _first_token(session, other, clock)
            interrupted, _ = _first_token(session, prompts[1], clock)
        with load(bundle, threads=threads, prefix_cache=PrefixCache(folder=folder)) as session:
            session.generate(prompts[2], max_tokens=1)
        taken = sum(path.stat().st_size for path in Path(folder).iterdir())
        seconds: list[float] = []
        for prompt, forget in ((prompts[3], False), (prompts[4], True)):
            with load(bundle, threads=threads, prefix_cache=PrefixCache(folder=folder)) as session:
                session.generate(other, max_tokens=2)
                if forget:
                    _forget(Path(folder))
                took, usage = _first_token(session, prompt, clock)
                seconds.append(took)
    restarted, dropped = seconds
    return Repeated(
        kind, usage.prompt_tokens, usage.cached_tokens, first, interrupted, copied, other_alone, restarted, dropped,
        taken,
    )


def _first_token(session: Session, prompt: Prompt, clock: Callable[[], float]) -> tuple[float, Any]:
    started = clock()
    usage = session.generate(prompt, max_tokens=1).usage
    return clock() - started, usage


def _forget(folder: Path) -> None:
    """Tell the system to drop its copies of the files; on Linux alone."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def write(measured: Measured, results: Path) -> None:
    """Write prefix_cache.json and prefix_cache.md into the folder `results`; other bundles' measurements stay."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{NAME}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [row for row in known if row["bundle"] != measured.bundle] + [asdict(measured)]
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    every = [Measured(**{**row, "repeated": tuple(Repeated(**one) for one in row["repeated"])}) for row in rows]
    (results / f"{NAME}.md").write_text("\n".join(map(table, every)), encoding="utf-8")


def table(measured: Measured) -> str:
    """The measurements as Markdown."""
    lines = [
        f"# What the prefix cache saves: `{measured.bundle}`\n",
        f"Time to the first token with {QUESTION} new tokens behind the prefix; {measured.threads} thread(s),"
        f" {measured.clock}.\n",
        "| prefix | prompt | cached | first time | again, from memory | after a restart | files dropped | on disk |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in measured.repeated:
        shares = " | ".join(
            f"{seconds:.2f} s ({seconds / one.first:.1%})" for seconds in (one.interrupted, one.restarted, one.dropped)
        )
        lines.append(
            f"| {one.kind} | {one.prompt_tokens} | {one.cached_tokens} | {one.first:.2f} s | {shares} |"
            f" {one.disk_bytes / 1e6:.0f} MB |"
        )
    lines += [
        "",
        *(
            f"The short prompt that interrupts {one.kind} waits {one.other:.2f} s for its first token,"
            f" {one.other_alone:.2f} s where there is nothing to copy." for one in measured.repeated
        ),
        f"A loaded session that nobody asks anything takes {measured.idle:.2%} of a processor.\n",
        f"{measured.machine['processor']}, {measured.machine['processors']} processors, {measured.machine['system']},"
        f" ONNX Runtime {measured.versions.get('onnxruntime')}, {measured.date}.\n",
    ]
    return "\n".join(lines)

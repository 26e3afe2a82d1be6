"""What a loaded bundle costs, and how well `edgephi fit` foresees it.

Boundary: every bundle is loaded by session_answer.py in a process of its own. Here its figures are set beside the
prediction and merged into session_cost.json, with a table in session_cost.md beside it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgephi.runtime import providers
from edgephi.runtime.errors import RequestError
from edgephi.runtime.footprint import footprint
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.probe import measure as probe

from . import machine, processes
from .session_answer import Answer, Moment, Resident

RESULTS_NAME = "session_cost.json"
TABLE_NAME = "session_cost.md"


@dataclass(frozen=True)
class Question:
    """What is asked: `prompt` random tokens, or about a picture of `image` pixels a side; how many tokens to answer."""

    prompt: int = 512
    answer: int = 32
    threads: int | None = None
    mapped: bool = False
    image: int | None = None

    def arguments(self) -> list[str]:
        """For session_answer.py."""
        options = (("--prompt", self.prompt), ("--answer", self.answer), ("--threads", self.threads),
                   ("--image", self.image))
        given = [word for name, value in options if value is not None for word in (name, str(value))]
        return [*given, *(["--mapped"] if self.mapped else [])]


@dataclass(frozen=True)
class Foreseen:
    """What `edgephi fit` says: resident bytes at the end of the answer, seconds, tokens a second."""

    memory: int
    first_token: float
    tokens_per_second: float


@dataclass(frozen=True)
class Cost:
    """One answer of one bundle; `foreseen` where it was compared, on the clock `processor` (else wall) time."""

    bundle: str
    bundle_bytes: int
    question: Question
    answer: Answer
    foreseen: Foreseen | None
    processor_time: bool
    load_before: float
    date: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]

    @property
    def first_token(self) -> float:
        """Seconds on the chosen clock."""
        return self.answer.first_token.processor if self.processor_time else self.answer.first_token.wall

    @property
    def tokens_per_second(self) -> float:
        """On the chosen clock, behind the first token."""
        answer = self.answer
        return (answer.answer_tokens - 1) / answer.decode.processor if self.processor_time else answer.decode_rate

    def key(self) -> tuple[str, ...]:
        """A later measurement of the same thing replaces an earlier one."""
        facts = (asdict(self.question), self.foreseen is not None, self.processor_time, dict(self.machine))
        return self.bundle, *(json.dumps(fact, sort_keys=True) for fact in facts)


def measure(bundle: Path, question: Question, *, compare: bool, processor_time: bool) -> Cost:
    """Ask one question; with `compare`, foresee it first.

    `processor_time` needs one thread. Raises RequestError, and when the process fails.
    """
    if processor_time and question.threads != 1:
        raise RequestError("processor time says how fast one thread is: add --threads 1")
    manifest = read_manifest(bundle)
    load = round(os.getloadavg()[0], 2)
    foreseen = _foresee(bundle, question, processor_time) if compare else None
    command = (sys.executable, "-m", "edgephi.benchmarks.session_answer", str(bundle), *question.arguments())
    answer = _answer(json.loads(processes.run(command).output))
    return Cost(
        bundle.resolve().name, sum(file.size for file in manifest.files.values()), question, answer, foreseen,
        processor_time, load, datetime.now(UTC).date().isoformat(), machine.describe(), machine.versions(),
    )


def _foresee(bundle: Path, question: Question, processor_time: bool) -> Foreseen:
    manifest = read_manifest(bundle)
    provider = providers.find(manifest.device)
    clock = time.process_time if processor_time else time.perf_counter
    speed = probe(manifest, provider, question.threads or provider.default_threads(), clock)
    end = question.prompt + question.answer
    return Foreseen(
        footprint(manifest, end).total, speed.first_token(question.prompt),
        speed.decode_rate(question.prompt + question.answer // 2),
    )


def note(costs: Sequence[Cost], results: Path) -> list[Cost]:
    """Merge costs into the files of the folder `results`; returns all. RequestError if they hold something else."""
    path = results / RESULTS_NAME
    known = [] if not path.is_file() else _read(path)
    merged = {cost.key(): cost for cost in (*known, *costs)}
    ordered = [merged[key] for key in sorted(merged)]
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(cost) for cost in ordered], indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(ordered), encoding="utf-8")
    return ordered


def table(costs: Sequence[Cost]) -> str:
    """Markdown: what was measured, then how `edgephi fit` did."""
    parts = ["# What a loaded bundle costs\n"]
    for described in {json.dumps(cost.machine, sort_keys=True): cost.machine for cost in costs}.values():
        here = [cost for cost in costs if cost.machine == described]
        parts.append(
            f"\n{described['processor']}, {described['processors']} processors, "
            f"{int(described['memory_bytes']) / 1e9:.0f} GB of memory, {described['system']}\n\n"
            "| bundle | size | weights | prompt | threads | load | anonymous | file-backed | peak | first token "
            "| tokens/s | clock | load of others | date |\n"
            "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---|\n"
        )
        parts += [_measured(cost) for cost in here]
        compared = [cost for cost in here if cost.foreseen is not None]
        if compared:
            parts.append(
                "\nForeseen by `edgephi fit`, and how far off:\n\n"
                "| bundle | prompt | memory | measured | off | first token | measured | off | tokens/s | measured "
                "| off |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
            )
            parts += [_compared(cost, cost.foreseen) for cost in compared if cost.foreseen is not None]
    parts.append(
        "\nWeights are random and of full size, but for the demo's. Anonymous and file-backed memory are those after "
        "the answer, peak is the largest resident set since loading ended. Mapped weights are pages of a file that "
        "the system may drop and that several processes share. Processor time counts what one thread computed; wall "
        "time includes waiting for other programs.\n"
    )
    return "".join(parts)


def _measured(cost: Cost) -> str:
    answer, question = cost.answer, cost.question
    prompt = f"{answer.prompt_tokens}" + (f" (picture of {question.image}²)" if question.image else "")
    load = answer.load.processor if cost.processor_time else answer.load.wall
    return (
        f"| {cost.bundle} | {_size(cost.bundle_bytes)} | {'mapped' if question.mapped else 'own'} | {prompt} "
        f"| {answer.threads} | {load:.1f} s | {_size(answer.answered.anonymous)} "
        f"| {_size(answer.answered.file_backed)} | {_size(answer.peak)} "
        f"| {cost.first_token:.2f} s | {cost.tokens_per_second:.2f} "
        f"| {'processor' if cost.processor_time else 'wall'} | {cost.load_before:.1f} | {cost.date} |\n"
    )


def _compared(cost: Cost, foreseen: Foreseen) -> str:
    pairs = (
        (foreseen.memory, cost.answer.peak, _size), (foreseen.first_token, cost.first_token, _seconds),
        (foreseen.tokens_per_second, cost.tokens_per_second, _rate),
    )
    cells = " | ".join(
        f"{show(said)} | {show(found)} | {said / found - 1:+.0%}" for said, found, show in pairs
    )
    return f"| {cost.bundle} | {cost.answer.prompt_tokens} | {cells} |\n"


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _rate(value: float) -> str:
    return f"{value:.2f}"


def _answer(fields: dict[str, Any]) -> Answer:
    moments = {name: Moment(**fields[name]) for name in ("load", "first_token", "decode")}
    memory = {name: Resident(**fields[name]) for name in ("loaded", "answered")}
    return Answer(**fields | moments | memory | {"graphs": tuple(fields["graphs"])})


def _read(path: Path) -> list[Cost]:
    try:
        return [_cost(record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{path} is not a list of session costs ({error}): move it away") from error


def _cost(record: dict[str, Any]) -> Cost:
    foreseen = record.pop("foreseen")
    return Cost(
        question=Question(**record.pop("question")), answer=_answer(record.pop("answer")),
        foreseen=None if foreseen is None else Foreseen(**foreseen), **record,
    )

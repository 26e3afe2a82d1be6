"""How soon a multimodal bundle answers about pictures and recordings, and what is in memory when it did.

Boundary: every question is asked in a process of its own by media_answer.py; here their figures become
media_latency.json and a table in media_latency.md beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgephi.runtime.errors import RequestError
from edgephi.runtime.manifest import read_manifest

from . import machine, processes
from .media_answer import CASES, Answer, Memory

RESULTS_NAME = "media_latency.json"
TABLE_NAME = "media_latency.md"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """All answers of one bundle. `load_before`: the load average of the minute before, work of others that delays."""

    bundle: str
    bundle_bytes: int
    answers: tuple[Answer, ...]
    load_before: float
    date: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]


def measure(bundle: Path, threads: int | None, progress: Progress) -> Measured:
    """Ask every question of media_answer.CASES. Raises RequestError for a bundle that lacks eyes or ears."""
    manifest = read_manifest(bundle)
    missing = {"image", "audio"} - set(manifest.capabilities)
    if missing:
        raise RequestError(
            f"{bundle} takes {', '.join(manifest.capabilities)}, no {' and no '.join(sorted(missing))}: measure a"
            " bundle of Phi-4-multimodal"
        )
    load = round(os.getloadavg()[0], 2)
    answers = []
    for number, case in enumerate(CASES):
        progress(case, number, len(CASES))
        options = () if threads is None else ("--threads", str(threads))
        command = (sys.executable, "-m", "edgephi.benchmarks.media_answer", str(bundle), case, *options)
        answers.append(_read(processes.run(command).output))
    nbytes = sum(file.size for file in manifest.files.values())
    return Measured(
        bundle.resolve().name, nbytes, tuple(answers), load, datetime.now(UTC).date().isoformat(), machine.describe(),
        machine.versions(),
    )


def write(measured: Measured, results: Path) -> None:
    """Write media_latency.json and media_latency.md into the folder `results`."""
    results.mkdir(parents=True, exist_ok=True)
    (results / RESULTS_NAME).write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(measured), encoding="utf-8")


def table(measured: Measured) -> str:
    """The measurements as Markdown: times, then memory."""
    where, threads = measured.machine, measured.answers[0].threads
    parts = [
        "# How soon a bundle answers about pictures and speech\n\n"
        f"{measured.bundle}, {measured.bundle_bytes / 1e9:.2f} GB; times do not depend on what its weights are. "
        f"{where['processor']}, {where['processors']} processors, {threads} threads, {where['system']}, ONNX Runtime "
        f"{measured.versions.get('onnxruntime')}, {measured.date}. Load of other programs in the minute before: "
        f"{measured.load_before:.1f}.\n\n"
        "| question | prompt | first token | processor | before the decoder | prefill | answer | real-time factor "
        "| first token, cold |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    ]
    parts += [_times(answer) for answer in measured.answers]
    parts.append(
        "\nThe prompt is in tokens, prefill and answer in tokens a second. Processor: time of all threads to the first "
        "token, which other programs lengthen little. Before the decoder: the part of the time to the first token for "
        "decoding the file, crops or spectra, and the encoder. Cold is the first question of a process, which also "
        "opens the encoder and the decoder with its adapters. The real-time factor is the time from the question to "
        "the end of an answer of 4 tokens a second of speech, over the length of the speech: below 1 it keeps up.\n\n"
        "| after a question | graphs in memory | resident | anonymous | file-backed | encoders released | peak |\n"
        "|---|---|---:|---:|---:|---:|---:|\n"
    )
    parts += [_memory(answer) for answer in measured.answers]
    parts.append("\nResident bytes of the bundle's weights that are mapped after it:\n\n")
    files = sorted({name for answer in measured.answers for name in answer.memory.mapped})
    parts.append(f"| after a question | {' | '.join(files)} |\n|---|{'---:|' * len(files)}\n")
    for answer in measured.answers:
        mapped = answer.memory.mapped
        cells = [_megabytes(mapped[name]) if name in mapped else "not mapped" for name in files]
        parts.append(f"| {answer.case} | {' | '.join(cells)} |\n")
    return "".join(parts)


def _times(answer: Answer) -> str:
    factor = "" if answer.real_time_factor is None else f"{answer.real_time_factor:.2f}"
    decode = "" if answer.decode_rate is None else f"{answer.decode_rate:.1f}"
    return (
        f"| {answer.case} | {answer.prompt_tokens} | {answer.time_to_first_token:.2f} s | {answer.processor:.2f} s "
        f"| {answer.preparing:.2f} s | {answer.prefill_rate:.1f} | {decode} | {factor} | {answer.first:.2f} s |\n"
    )


def _memory(answer: Answer) -> str:
    memory, released = answer.memory, answer.memory_without_encoders
    cells = (memory.resident, memory.anonymous, memory.file_backed, released.resident, answer.peak_resident)
    return f"| {answer.case} | {', '.join(answer.graphs)} | {' | '.join(map(_megabytes, cells))} |\n"


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB"


def _read(text: str) -> Answer:
    fields = json.loads(text)
    graphs = tuple(fields.pop("graphs"))
    memory, released = (Memory(**fields.pop(name)) for name in ("memory", "memory_without_encoders"))
    return Answer(**fields, graphs=graphs, memory=memory, memory_without_encoders=released)

"""What compiling for an NPU ahead of time gives: sizes with one set of weights and with two, and simulated answers.

Boundary: exports and compiles in processes of their own, loads bundles and compares answers; the NPU itself is
simulated, so nothing here is a speed. Processor time is that of the compiler, on this machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgephi import Session, load
from edgephi.demo.tasks import held_out
from edgephi.runtime.errors import RequestError
from edgephi.runtime.graphs import Interrupt
from edgephi.runtime.manifest import Graph, read_manifest

from . import machine, processes

RESULTS_NAME, TABLE_NAME = "npu.json", "npu.md"
SIMULATOR = "qnn_simulator"
TASKS = ("sum", "sort", "copy")


@dataclass(frozen=True)
class Compilation:
    """One way of compiling the graphs: bytes of compiled weights, seconds of processor time, peak resident bytes."""

    shared_weights: bool
    nbytes: int
    cpu_seconds: float
    peak_resident: int


@dataclass(frozen=True)
class Prompted:
    """One prompt of so many tokens: greedy tokens of the simulator against the CPU's, and the distance of the logits.

    `reused`: tokens of it that were cached by the prompt before, of which some were rewound.
    """

    prompt: int
    reused: int
    tokens: int
    equal: int
    apart: float


@dataclass(frozen=True)
class Compiled:
    """A checkpoint compiled for one generation."""

    checkpoint: str
    layers: int
    shape: str
    context: int
    generation: str
    compiler: str
    pieces: dict[str, int]
    onnx_bytes: int
    compilations: tuple[Compilation, ...]
    prompts: tuple[Prompted, ...]
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]

    def key(self) -> tuple[str, ...]:
        """A later measurement of the same thing replaces an earlier one."""
        return self.checkpoint, self.generation


@dataclass(frozen=True)
class Plan:
    """What is compiled and asked: `prompts` are lengths in tokens, none for sizes alone; `answer`: tokens to write."""

    generations: tuple[str, ...]
    context: int
    prompts: tuple[int, ...]
    answer: int
    method: str


def measure(checkpoint: Path, plan: Plan, results: Path) -> list[Compiled]:
    """Export, compile both ways for each generation, and ask; each result is noted in the folder `results` at once.

    Raises RequestError when an export or a compilation fails.
    """
    measured = []
    with tempfile.TemporaryDirectory(prefix="edgephi-npu-") as name:
        folder = Path(name)
        options = ["--method", plan.method, "--threads", "1"]
        _program(["export", str(checkpoint), "-o", str(folder / "npu"), "--device", "npu", "-c", str(plan.context),
                  *options])
        if plan.prompts:
            _program(["export", str(checkpoint), "-o", str(folder / "cpu"), *options])
        for generation in plan.generations:
            measured.append(_compiled(checkpoint.name, folder, generation, plan))
            note(measured[-1:], results)
    return measured


def _compiled(name: str, folder: Path, generation: str, plan: Plan) -> Compiled:
    bundle, compilations = folder / "npu", list[Compilation]()
    for shared in (True, False):  # the second is what the simulator opens
        command = ["compile", str(bundle), "--soc", generation, "--json"]
        usage = _program([*command, "--share-weights" if shared else "--separate-weights"])
        (form,) = [form for form in json.loads(usage.output) if form["generation"] == generation]
        compilations.append(Compilation(shared, form["bytes"], round(usage.cpu_seconds, 1), usage.peak_resident))
    manifest = read_manifest(bundle)
    prompts = _asked(folder, generation, plan) if plan.prompts else ()
    text = manifest.text
    shape = f"{text.heads} heads of {text.head_dim} over {text.kv_heads}, {text.hidden_size} wide"
    (compiled,) = [form for form in manifest.compiled if form.generation == generation]
    return Compiled(
        name, text.layers, shape, text.context_length, generation, compiled.compiler,
        _pieces(bundle, compiled.graphs), manifest.files["text.onnx.data"].size, tuple(compilations), prompts,
        datetime.now(UTC).date().isoformat(), machine.describe(), machine.versions(),
    )


def _pieces(bundle: Path, graphs: Mapping[str, Graph]) -> dict[str, int]:
    """How many operators each compiled graph has: 1 where the compiler kept it whole."""
    import onnx_ir as ir

    return {name: len(ir.load(bundle / graph.file).graph) for name, graph in graphs.items()}


def _asked(folder: Path, generation: str, plan: Plan) -> tuple[Prompted, ...]:
    """Prompts of each length from an empty cache, then again in turns: each goes on from a part of the one before."""
    device, prompted = f"{SIMULATOR}:{generation}", list[Prompted]()
    with load(folder / "cpu", prefix_cache=False, threads=1) as plain:
        with load(folder / "npu", device=device, prefix_cache=False) as simulated:
            if simulated.left_to_cpu or generation not in simulated.device_reason:
                raise RequestError(f"{device} runs something else: {simulated.device_reason}, {simulated.left_to_cpu}")
            for length in plan.prompts:
                prompted.append(_compare(plain, simulated, _prompt(plain, length), plan.answer))
                simulated.clear()
            talk = _prompt(plain, 130)
            for turn in (talk[:70], talk[:75], [*talk[:40], *talk[100:]]):
                prompted.append(_compare(plain, simulated, turn, plan.answer))
    return tuple(prompted)


def _compare(plain: Session, simulated: Session, ids: list[int], answer: int) -> Prompted:
    wanted = plain._model.decoder.advance(ids, Interrupt())[0].astype(np.float32)
    logits, work = simulated._model.decoder.advance(ids, Interrupt())
    apart = float(np.linalg.norm(logits - wanted) / np.linalg.norm(wanted))
    given = simulated.generate(ids, max_tokens=answer, temperature=0).token_ids
    said = plain.generate(ids, max_tokens=answer, temperature=0).token_ids
    equal = next((index for index, pair in enumerate(zip(given, said, strict=False)) if pair[0] != pair[1]), len(said))
    return Prompted(len(ids), work.reused, len(said), equal, apart)


def _prompt(session: Session, length: int) -> list[int]:
    """The last tokens of questions of the demo's tasks."""
    ids: list[int] = []
    for seed in range(length):
        for task in TASKS:
            ids += session.encode(list(held_out(task, 1, seed=seed)[0].turns))
        if len(ids) >= length:
            break
    return ids[-length:]


def _program(arguments: Sequence[str]) -> processes.Usage:
    return processes.run([sys.executable, "-m", "edgephi", *arguments])


def note(measured: Sequence[Compiled], results: Path) -> None:
    """Merge results into the files of the folder `results`. Raises RequestError if they hold something else."""
    path = results / RESULTS_NAME
    merged = {item.key(): item for item in (*([] if not path.is_file() else _read(path)), *measured)}
    results.mkdir(parents=True, exist_ok=True)
    ordered = [merged[key] for key in sorted(merged)]
    path.write_text(json.dumps([asdict(item) for item in ordered], indent=1) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(ordered), encoding="utf-8")


def table(measured: Sequence[Compiled]) -> str:
    """Markdown: sizes, then answers."""
    lines = [
        "# Compiled for an NPU ahead of time\n",
        "The context processor (windows of 64 tokens) and the token iterator, by the compiler in onnxruntime-qnn. It "
        "stores equal weights once, as the copied layers of `deepen` have.\n",
        "| checkpoint | layers | shape | context | generation | operators of each compiled graph | weights, ONNX "
        "| compiled together | compiled apart | processor time, both | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for item in measured:
        sizes = {way.shared_weights: way for way in item.compilations}
        lines.append(
            f"| {item.checkpoint} | {item.layers} | {item.shape} | {item.context} | {item.generation} "
            f"| {', '.join(str(count) for count in item.pieces.values())} | {item.onnx_bytes / 1e6:.1f} MB "
            f"| {sizes[True].nbytes / 1e6:.1f} MB | {sizes[False].nbytes / 1e6:.1f} MB "
            f"| {sizes[True].cpu_seconds:.0f} s, {sizes[False].cpu_seconds:.0f} s "
            f"| {max(way.peak_resident for way in item.compilations) / 1e9:.1f} GB |"
        )
    lines += [
        "\nExecuted in the simulator, weights apart, against the bundle for the CPU, whose products round activations "
        "to int8:\n",
        "| checkpoint | generation | prompt | of it cached | greedy tokens equal | logits apart |",
        "|---|---|---|---|---|---|",
        *(
            f"| {item.checkpoint} | {item.generation} | {asked.prompt} | {asked.reused} "
            f"| {asked.equal} of {asked.tokens} | {asked.apart:.2%} |" for item in measured for asked in item.prompts
        ),
    ]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> list[Compiled]:
    try:
        records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [
            Compiled(**record | {
                "compilations": tuple(Compilation(**way) for way in record["compilations"]),
                "prompts": tuple(Prompted(**asked) for asked in record["prompts"]),
            })
            for record in records
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{path} is not a list of compiled checkpoints ({error}): move it away") from error

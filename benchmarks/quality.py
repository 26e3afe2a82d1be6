"""What a precision costs in answers: task accuracy, KL divergence and top-1 agreement of the demo checkpoint's bundles.

Boundary: the reference is transformers with the checkpoint's own weights, computed in float32; the bundles run in this
package's runtime, and their answers are really decoded. All questions are held out: the checkpoint was not trained on
them.

The divergence is that of llama.cpp's `llama-perplexity --kl-divergence`: KL(reference ‖ bundle) in nats at every
position of the conversations. Its standard error takes a conversation, not a token, as the independent draw.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgephi.demo.conversations import answer_ids, prompt_ids
from edgephi.demo.tasks import RANGES, TASKS, held_out
from edgephi.demo.tasks.example import Example
from edgephi.runtime.loading import load
from edgephi.runtime.session import Session

from . import machine
from .export_cost import Case

RESULTS_NAME = "quality.json"
TABLE_NAME = "quality.md"
CASES = ("fp32", "int8", "int4:quality", "int4:balanced", "int4:fast")
REFERENCE = "bf16 (transformers)"
SEED = 2026
LONGEST = 200  # tokens of an answer

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Divergence:
    """How far next-token distributions are from the reference, over `positions` positions; in nats."""

    positions: int
    mean: float
    standard_error: float
    median: float
    percentile_99: float
    maximum: float
    agreement: float


@dataclass(frozen=True)
class Quality:
    """One bundle, or the reference: size of its weights in bytes, share of exactly right answers of each task."""

    name: str
    nbytes: int
    accuracy: Mapping[str, float]
    divergence: Divergence | None

    @property
    def overall(self) -> float:
        """Mean of the tasks' accuracies."""
        return sum(self.accuracy.values()) / len(self.accuracy)


@dataclass(frozen=True)
class Measured:
    """Reference and bundles, how many questions of each task they answered, and on how many they were compared."""

    qualities: tuple[Quality, ...]
    examples: int
    compared: int
    seed: int
    date: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]


class Reference:
    """transformers' model of a checkpoint: bfloat16 weights, float32 arithmetic."""

    def __init__(self, checkpoint: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self.words = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 (tokens, vocabulary)."""
        with self._torch.inference_mode():
            logits: np.ndarray = self.model(input_ids=self._torch.tensor([list(ids)])).logits[0].numpy()
        return logits


def measure(cases: Sequence[str], examples: int, compared: int, threads: int | None, progress: Progress) -> Measured:
    """Measure the shipped checkpoint in each of `cases` (PRECISION or PRECISION:PRESET).

    Every task's first `examples` held-out questions are answered; on the first `compared` of them distributions are
    compared too. `threads`: None for one on each physical core.
    """
    from edgephi.export.pipeline import export

    drawn = {task: held_out(task, examples, SEED) for task in TASKS}
    conversations = [example for rows in drawn.values() for example in rows[:compared]]
    with ExitStack() as stack:
        checkpoint = stack.enter_context(as_file(files("edgephi.demo") / "checkpoint"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        reference = Reference(checkpoint)
        weights = (checkpoint / "model.safetensors").stat().st_size
        rows = [Quality(REFERENCE, weights, reference_accuracy(reference, drawn), None)]
        for number, case in enumerate(map(Case.parse, cases)):
            progress(f"{case.precision} {case.preset}", number, len(cases))
            bundle = folder / f"{case.precision}-{case.preset}"
            export(checkpoint, bundle, precision=case.precision, preset=case.preset, threads=threads)
            with load(bundle, threads=threads) as session:
                apart = divergence(reference, session, conversations)
                rows.append(Quality(_name(case), _weights(bundle), accuracy(session, reference.words, drawn), apart))
    return Measured(
        tuple(rows), examples, compared, SEED, datetime.now(UTC).date().isoformat(), machine.describe(),
        machine.versions(),
    )


def reference_accuracy(reference: Reference, drawn: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    """Share of exactly right answers of each task, by teacher forcing."""
    from edgephi.demo.measure import solved

    return {task: float(np.mean(solved(reference.model, reference.words, rows))) for task, rows in drawn.items()}


def accuracy(session: Session, words: Tokenizer, drawn: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    """Share of exactly right answers of each task, decoded greedily; the end of the answer is part of it."""
    return {task: float(np.mean([_right(session, words, one) for one in rows])) for task, rows in drawn.items()}


def divergence(reference: Reference, session: Session, conversations: Sequence[Example]) -> Divergence:
    """Compare next-token distributions at every position of questions with their right answers."""
    apart: list[np.ndarray] = []
    agreeing: list[np.ndarray] = []
    for example in conversations:
        ids = [*prompt_ids(reference.words, example), *answer_ids(reference.words, example)]
        expected, found = reference.logits(ids), session.logits(ids)
        apart.append(kl_divergence(expected, found))
        agreeing.append(expected.argmax(-1) == found.argmax(-1))
    every = np.concatenate(apart)
    return Divergence(
        positions=len(every), mean=float(every.mean()), standard_error=clustered_error(apart),
        median=float(np.median(every)), percentile_99=float(np.percentile(every, 99)), maximum=float(every.max()),
        agreement=float(np.concatenate(agreeing).mean()),
    )


def kl_divergence(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL(softmax(expected) ‖ softmax(found)) of every row, in nats, float64: (n, vocabulary) twice → (n,)."""
    one, other = (_log_softmax(logits.astype(np.float64)) for logits in (expected, found))
    divergences: np.ndarray = (np.exp(one) * (one - other)).sum(-1)
    return divergences


def clustered_error(clusters: Sequence[np.ndarray]) -> float:
    """Standard error of the mean of all values when whole clusters, not values, are independent.

    Taylor linearization of the ratio of sums (Cochran 1977, section 6.3), infinite for a single cluster.
    """
    count = len(clusters)
    if count < 2:
        return math.inf
    sizes = np.array([len(cluster) for cluster in clusters], np.float64)
    sums = np.array([cluster.sum() for cluster in clusters])
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(math.sqrt(count / (count - 1) * np.square(residuals).sum()) / sizes.sum())


def write(measured: Measured, results: Path) -> None:
    """Write quality.json and quality.md into the folder `results`."""
    results.mkdir(parents=True, exist_ok=True)
    (results / RESULTS_NAME).write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(measured), encoding="utf-8")


def table(measured: Measured) -> str:
    """The measurements as Markdown: one column for each bundle."""
    columns = measured.qualities
    lines = [
        "# What a precision costs in answers\n",
        f"The shipped checkpoint on {measured.examples} held-out questions of each task: exactly right greedy answers.",
        f"KL divergence from the reference over every position of {measured.compared} conversations of each task.\n",
        f"| | {' | '.join(column.name for column in columns)} |", f"|---|{'---:|' * len(columns)}",
    ]
    lines += [_row(f"{task}: {RANGES[task]}", [f"{column.accuracy[task]:.1%}" for column in columns]) for task in TASKS]
    lines.append(_row("**all tasks**", [f"**{column.overall:.2%}**" for column in columns]))
    shown: dict[str, Callable[[Divergence], str]] = {
        "mean KL divergence, nats": lambda one: f"{one.mean:.2g} ± {one.standard_error:.1g}",
        "its 99th percentile": lambda one: f"{one.percentile_99:.2g}",
        "top-1 agreement": lambda one: f"{one.agreement:.2%}",
    }
    for name, show in shown.items():
        lines.append(_row(name, [show(column.divergence) if column.divergence else "" for column in columns]))
    lines.append(_row("weights", [f"{column.nbytes / 1e6:.2f} MB" for column in columns]))
    where = measured.machine
    lines.append(
        f"\n{where['processor']}, {where['processors']} processors, {where['system']}, "
        f"ONNX Runtime {measured.versions.get('onnxruntime')}, {measured.date}, seed {measured.seed}.\n"
    )
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _right(session: Session, words: Tokenizer, example: Example) -> bool:
    reply = session.generate(prompt_ids(words, example), temperature=0, max_tokens=LONGEST)
    return list(reply.token_ids) == answer_ids(words, example)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _name(case: Case) -> str:
    return case.precision if case.precision.startswith("fp") else f"{case.precision} {case.preset}"


def _weights(bundle: Path) -> int:
    """Bytes of all external data."""
    return sum(path.stat().st_size for path in bundle.glob("*.data"))

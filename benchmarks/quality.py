"""What a precision costs in answers: task accuracy, KL divergence and top-1 agreement of the demo checkpoint's bundles.

Boundary: the reference is quality_reference's; the bundles run in this package's runtime, and their answers are really
decoded. All questions are held out: the checkpoint was not trained on them. Pictures and recordings are asked about
where the checkpoint takes them.

The divergence is that of llama.cpp's `llama-perplexity --kl-divergence`: KL(reference ‖ bundle) in nats at every
position of the conversations. Its standard error takes a conversation, not a token, as the independent draw.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from edgephi.demo.conversations import answer_ids
from edgephi.demo.tasks.example import Example
from edgephi.runtime.loading import load
from edgephi.runtime.session import Session

from . import machine
from .export_cost import Case
from .quality_reference import (
    LONGEST,
    Reference,
    asked_ids,
    draw,
    has_media,
    ranges,
    without_adapters,
    word_error_rate,
)

RESULTS_NAME = "quality.json"
TABLE_NAME = "quality.md"
CASES = ("fp32", "int8", "int4:quality", "int4:balanced", "int4:fast")
REFERENCE = "bf16 (transformers)"
WITHOUT_ADAPTERS = "fp32 without adapters"
SEED = 2026
WRITTEN_DOWN = "transcribe"  # the task whose answers are counted word by word too

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
    """One bundle, or the reference: size of its weights in bytes, share of exactly right answers of each task.

    `perplexity` is that of the compared conversations, `word_errors` for each spoken word of those written down.
    """

    name: str
    nbytes: int
    accuracy: Mapping[str, float]
    divergence: Divergence | None
    perplexity: float | None = None
    word_errors: float | None = None

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


def measure(
    cases: Sequence[str], examples: int, compared: int, threads: int | None, progress: Progress,
    checkpoint: Path | None = None,
) -> Measured:
    """Measure `checkpoint`, by default the shipped one, in each of `cases` (PRECISION or PRECISION:PRESET).

    Every task's first `examples` held-out questions are answered; on the first `compared` of them distributions are
    compared too. Where the checkpoint takes media, it is measured once more with adapters that add nothing.
    `threads`: None for one on each physical core.
    """
    with ExitStack() as stack:
        checkpoint = checkpoint or stack.enter_context(as_file(files("edgephi.demo") / "checkpoint"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        reference = Reference(checkpoint)
        drawn = draw(reference.takes_media, examples, SEED)
        conversations = [example for rows in drawn.values() for example in rows[:compared]]
        rows: list[Quality] = []
        for number, case in enumerate(map(Case.parse, cases)):
            progress(f"{case.precision} {case.preset}", number, len(cases))
            with _session(checkpoint, case, folder, threads) as session:
                if not rows:
                    rows.append(_reference_quality(reference, session, drawn, conversations, checkpoint))
                rows.append(_quality(reference, session, drawn, conversations, _name(case), folder))
        if reference.takes_media:
            progress(WITHOUT_ADAPTERS, len(cases), len(cases))
            alone = {task: found for task, found in drawn.items() if has_media(found[0])}
            stripped = without_adapters(checkpoint, folder / "checkpoint")
            with _session(stripped, Case("fp32", "balanced"), folder, threads) as session:
                accuracy, errors = answered(session, reference, alone)
                rows.append(Quality(WITHOUT_ADAPTERS, _weights(folder / "bundle"), accuracy, None, None, errors))
    return Measured(
        tuple(rows), examples, compared, SEED, datetime.now(UTC).date().isoformat(), machine.describe(),
        machine.versions(),
    )


def answered(
    session: Session, reference: Reference, drawn: Mapping[str, Sequence[Example]]
) -> tuple[dict[str, float], float | None]:
    """Share of exactly right answers of each task, decoded greedily, and the word error rate of what is written down.

    The end of the answer is part of it.
    """
    right: dict[str, float] = {}
    errors = None
    for task, rows in drawn.items():
        prompts = [list(row.turns) if has_media(row) else asked_ids(session, reference.words, row) for row in rows]
        replies = [session.generate(prompt, temperature=0, max_tokens=LONGEST) for prompt in prompts]
        truths = [answer_ids(reference.words, row) for row in rows]
        right[task] = float(np.mean([list(reply.token_ids) == ids for reply, ids in zip(replies, truths, strict=True)]))
        if task == WRITTEN_DOWN:
            errors = word_error_rate([(row.answer, reply.text) for row, reply in zip(rows, replies, strict=True)])
    return right, errors


def reference_accuracy(
    reference: Reference, session: Session, drawn: Mapping[str, Sequence[Example]]
) -> tuple[dict[str, float], float | None]:
    """What `answered` says of a session, of the reference; text by teacher forcing, which comes to the same."""
    from edgephi.demo.measure import solved

    right: dict[str, float] = {}
    errors = None
    for task, rows in drawn.items():
        if not has_media(rows[0]):
            right[task] = float(np.mean(solved(reference.model, reference.words, rows)))
            continue
        made = [reference.answer(asked_ids(session, reference.words, row), row) for row in rows]
        truths = [answer_ids(reference.words, row) for row in rows]
        right[task] = float(np.mean([found == ids for found, ids in zip(made, truths, strict=True)]))
        if task == WRITTEN_DOWN:
            texts = [reference.words.decode(ids) for ids in made]
            errors = word_error_rate([(row.answer, text) for row, text in zip(rows, texts, strict=True)])
    return right, errors


def divergence(
    reference: Reference, session: Session, conversations: Sequence[Example]
) -> tuple[Divergence, float, float]:
    """Compare next-token distributions at every position of questions with their right answers.

    Also the perplexities of the answers, the reference's and the session's.
    """
    apart: list[np.ndarray] = []
    agreeing: list[np.ndarray] = []
    surprises: list[np.ndarray] = []
    for example in conversations:
        words = reference.words
        prompt, answer = asked_ids(session, words, example), answer_ids(words, example)
        ids = [*prompt, *answer]
        # what a session adds behind the answer of messages is left out
        found = session.logits(list(example.finished) if has_media(example) else ids)[: len(ids)]
        expected = reference.logits(ids, example if has_media(example) else None)
        apart.append(kl_divergence(expected, found))
        agreeing.append(expected.argmax(-1) == found.argmax(-1))
        at = np.arange(len(prompt) - 1, len(ids) - 1)
        surprises.append(np.stack([-_log_softmax(each[at].astype(np.float64))[np.arange(len(at)), answer]
                                   for each in (expected, found)]))  # fmt: skip
    every = np.concatenate(apart)
    whole = Divergence(
        positions=len(every), mean=float(every.mean()), standard_error=clustered_error(apart),
        median=float(np.median(every)), percentile_99=float(np.percentile(every, 99)), maximum=float(every.max()),
        agreement=float(np.concatenate(agreeing).mean()),
    )
    exact, rounded = np.exp(np.concatenate(surprises, axis=1).mean(1)).tolist()
    return whole, exact, rounded


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
    """Write quality.json, quality.md and quality.svg into the folder `results`."""
    from . import quality_plot

    results.mkdir(parents=True, exist_ok=True)
    (results / RESULTS_NAME).write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (results / TABLE_NAME).write_text(table(measured), encoding="utf-8")
    quality_plot.write(measured, results)


def table(measured: Measured) -> str:
    """The measurements as Markdown: one column for each bundle."""
    columns = measured.qualities
    tasks = columns[0].accuracy
    covered = ranges(takes_media=WRITTEN_DOWN in tasks)
    lines = [
        "# What a precision costs in answers\n",
        f"The shipped checkpoint on {measured.examples} held-out questions of each task: exactly right greedy answers.",
        f"KL divergence from the reference over every position of {measured.compared} conversations of each task.\n",
        f"| | {' | '.join(column.name for column in columns)} |", f"|---|{'---:|' * len(columns)}",
    ]
    for task in tasks:
        cells = [f"{column.accuracy[task]:.1%}" if task in column.accuracy else "" for column in columns]
        lines.append(_row(f"{task}: {covered[task]}", cells))
    whole = [column.accuracy.keys() == tasks.keys() for column in columns]
    overall = zip(columns, whole, strict=True)
    lines.append(_row("**all tasks**", [f"**{column.overall:.2%}**" if all_of else "" for column, all_of in overall]))
    if columns[0].word_errors is not None:
        rates = ["" if column.word_errors is None else f"{column.word_errors:.1%}" for column in columns]
        lines.append(_row("word errors of what is written down", rates))
    shown: dict[str, Callable[[Divergence], str]] = {
        "mean KL divergence, nats": lambda one: f"{one.mean:.2g} ± {one.standard_error:.1g}",
        "its 99th percentile": lambda one: f"{one.percentile_99:.2g}",
        "top-1 agreement": lambda one: f"{one.agreement:.2%}",
    }
    for name, show in shown.items():
        lines.append(_row(name, [show(column.divergence) if column.divergence else "" for column in columns]))
    perplexities = ["" if column.perplexity is None else f"{column.perplexity:.4f}" for column in columns]
    lines.append(_row("perplexity of the right answers", perplexities))
    lines.append(_row("weights", [f"{column.nbytes / 1e6:.2f} MB" for column in columns]))
    where = measured.machine
    lines.append(
        f"\n{where['processor']}, {where['processors']} processors, {where['system']}, "
        f"ONNX Runtime {measured.versions.get('onnxruntime')}, {measured.date}, seed {measured.seed}.\n"
    )
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


@contextmanager
def _session(checkpoint: Path, case: Case, folder: Path, threads: int | None) -> Iterator[Session]:
    """The checkpoint in one precision, exported to `folder`/bundle."""
    from edgephi.export.pipeline import export

    bundle = folder / "bundle"
    export(checkpoint, bundle, precision=case.precision, preset=case.preset, threads=threads)
    with load(bundle, threads=threads) as session:
        yield session


def _quality(
    reference: Reference, session: Session, drawn: Mapping[str, Sequence[Example]], conversations: Sequence[Example],
    name: str, folder: Path,
) -> Quality:
    apart, _, perplexity = divergence(reference, session, conversations)
    right, errors = answered(session, reference, drawn)
    return Quality(name, _weights(folder / "bundle"), right, apart, perplexity, errors)


def _reference_quality(
    reference: Reference, session: Session, drawn: Mapping[str, Sequence[Example]], conversations: Sequence[Example],
    checkpoint: Path,
) -> Quality:
    """`session`, of any precision, says where media stand."""
    _, perplexity, _ = divergence(reference, session, conversations)
    right, errors = reference_accuracy(reference, session, drawn)
    weights = sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors"))
    return Quality(REFERENCE, weights, right, None, perplexity, errors)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _name(case: Case) -> str:
    return case.precision if case.precision.startswith("fp") else f"{case.precision} {case.preset}"


def _weights(bundle: Path) -> int:
    """Bytes of all external data."""
    return sum(path.stat().st_size for path in bundle.glob("*.data"))

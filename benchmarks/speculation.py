"""What speculative drafting gains: the same answers with and without it, and the time of both.

Boundary: the demo's bundle really answers, so its tokens are compared; a bundle of random weights follows a script, for
its own choice means nothing: every step runs the model, chooses from its logits and then says what the script says.
Drafting sees only what was said, so its guesses and steps are those of a model that would say so.
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from tokenizers import Tokenizer

from edgephi.demo.tasks import TASKS, held_out
from edgephi.runtime import prefix_cache, providers
from edgephi.runtime.decode import Decoder
from edgephi.runtime.draft import MAXIMUM_DRAFT, STEP_COST
from edgephi.runtime.generation import Step, generate
from edgephi.runtime.graphs import Graph, Interrupt
from edgephi.runtime.inputs import TokenInputs
from edgephi.runtime.loading import load
from edgephi.runtime.manifest import read_manifest
from edgephi.runtime.rotary import RotaryTables
from edgephi.runtime.sampling import Choice, Sampler, Sampling

from . import machine, result_files
from .texts import PROSE

NAME = "speculation"
SEED = 2026
LONGEST = 200  # tokens of an answer of the demo

Clock = Callable[[], float]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Gain:
    """Answers of one kind: `share` of their tokens was guessed; `speed` and its range compare decoding with and without
    drafting, `steps` does so by the table of step costs alone. `same` of `answers` had the same tokens both ways.
    """

    kind: str
    answers: int
    same: int
    tokens: int
    share: float
    speed: float
    slowest: float
    fastest: float
    steps: float


@dataclass(frozen=True)
class Measured:
    """All gains of one bundle; `rows` is the time of a step over 1, 2, … rows against one row."""

    bundle: str
    clock: str
    threads: int
    gains: tuple[Gain, ...]
    rows: tuple[float, ...]
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]


class Scripted(Sampler):
    """Chooses greedily, at the full cost of it, and says what a script says."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__(Sampling())
        self._script = iter(script)

    def choose(self, logits: np.ndarray) -> Choice:
        """The next token of the script."""
        super().choose(logits)
        return Choice(next(self._script), None)


def measure_demo(bundle: Path, prompts: int, threads: int, *, processor_time: bool, progress: Progress) -> Measured:
    """Answer about `prompts` held-out questions of the demo greedily, with drafting and without, in turn."""
    clock, gains = _clock(processor_time), []
    each = -(-prompts // len(TASKS))
    with load(bundle, threads=threads, prefix_cache=False) as session:
        for task in TASKS:
            progress(task)
            same = tokens = drafted = 0
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for example in held_out(task, each, SEED):
                said: dict[bool, tuple[int, ...]] = {}
                for drafting in (False, True):
                    session.clear()
                    pieces = session.stream(example.turns, temperature=0, max_tokens=LONGEST, draft=drafting)
                    made = [next(pieces)]
                    started = clock()
                    made += pieces
                    seconds[drafting].append(clock() - started)
                    said[drafting] = tuple(piece.token_id for piece in made if piece.token_id is not None)
                    usage = made[-1].usage
                    drafted += usage.drafted_tokens if usage is not None and drafting else 0
                same += said[False] == said[True]
                tokens += len(said[True])
            speed = sum(seconds[False]) / sum(seconds[True])
            gains.append(Gain(task, each, same, tokens, drafted / tokens, speed, speed, speed, 0.0))
    return _measured(bundle, threads, gains, (), processor_time)


def measure_scripted(
    bundle: Path, vocabulary: Path, tokens: int, rounds: int, threads: int, *, processor_time: bool,
    progress: Progress,
) -> Measured:
    """Follow scripts of `tokens` tokens, `rounds` times with drafting and without in turn.

    `vocabulary`: the tokenizer.json that cuts texts into tokens. A bundle of random weights may have one that does not
    know the words of its language, and letters repeat far more often than words.
    """
    clock, interrupt = _clock(processor_time), Interrupt()
    manifest, tokenizer = read_manifest(bundle), Tokenizer.from_file(str(vocabulary))
    graph = Graph(bundle / manifest.graphs["text"].file, providers.find(manifest.device), threads)
    tables = RotaryTables.open(bundle, manifest.text, None)
    decoder = Decoder(graph, manifest.text, tables, TokenInputs(graph))
    gains = []
    for kind, (prompt, script) in scripts(tokenizer, manifest.text.vocab_size, tokens).items():
        progress(kind)
        ratios, steps = [], list[Step]()
        for _ in range(rounds):
            seconds = {}
            for drafting in (False, True):
                made = generate(
                    decoder, prompt, Scripted(script), len(script), frozenset(), interrupt, draft=drafting
                )
                steps = [next(made)]  # the prompt, which is cached from the second time on
                started = clock()
                steps += made
                seconds[drafting] = clock() - started
            ratios.append(seconds[False] / seconds[True])
        drafted = sum(step.drafted for step in steps)
        cost = sum(STEP_COST[step.work.computed - 1] for step in steps[1:] if step.work.computed)
        gains.append(Gain(
            kind, 1, 1, len(script), drafted / len(script), median(ratios), min(ratios), max(ratios),
            (len(script) - 1) / cost,
        ))
    rows = tuple(_rows(decoder, rounds, clock))
    decoder.close()
    graph.close()
    return _measured(bundle, threads, gains, rows, processor_time)


def scripts(tokenizer: Tokenizer, vocabulary: int, tokens: int) -> dict[str, tuple[list[int], list[int]]]:
    """Kind → prompt and answer of about `tokens` tokens, made of texts that ship with this package.

    editing: the text again, one token in thirty another one. extraction: passages of 8 to 24 tokens out of it, with 2
    to 5 new tokens between them. code repair: a source file, one token in forty another one. prose: how the text goes
    on. nothing to draft: tokens at random.
    """
    drawn = random.Random(SEED)
    text = tokenizer.encode(PROSE, add_special_tokens=False).ids
    code = tokenizer.encode(inspect.getsource(prefix_cache), add_special_tokens=False).ids

    def changed(ids: Sequence[int], every: int) -> list[int]:
        return [drawn.randrange(vocabulary) if drawn.random() < 1 / every else token for token in ids]

    extracts: list[int] = []
    while len(extracts) < tokens:
        start, length = drawn.randrange(len(text) - 24), drawn.randrange(8, 25)
        extracts += text[start : start + length]
        extracts += (drawn.randrange(vocabulary) for _ in range(drawn.randrange(2, 6)))
    return {
        "editing": (text[:tokens], changed(text[:tokens], 30)),
        "extraction": (text, extracts[:tokens]),
        "code repair": (code[:tokens], changed(code[:tokens], 40)),
        "prose": (text[: len(text) // 2], text[len(text) // 2 :][:tokens]),
        "nothing to draft": (text[:200], [drawn.randrange(vocabulary) for _ in range(tokens)]),
    }


def write(measured: Sequence[Measured], results: Path) -> None:
    """Write speculation.json and speculation.md into the folder `results`."""
    result_files.write(results, NAME, [asdict(each) for each in measured], table(measured))


def table(measured: Sequence[Measured]) -> str:
    """The measurements as Markdown."""
    lines = ["# What speculative drafting gains\n"]
    for each in measured:
        scripted = bool(each.rows)
        lines += [
            f"`{each.bundle}`, {each.threads} thread(s), {each.clock}. " + (
                "The answers are scripts; each step runs the model." if scripted else "The model's own greedy answers."
            ) + "\n",
            "| answer | tokens | guessed | speed | range | by steps | same tokens |",
            "|---|---:|---:|---:|---|---:|---:|",
        ]
        for gain in each.gains:
            by_steps = f"{gain.steps:.2f}×" if scripted else ""
            same = "" if scripted else f"{gain.same} of {gain.answers}"
            lines.append(
                f"| {gain.kind} | {gain.tokens} | {gain.share:.0%} | {gain.speed:.2f}× |"
                f" {gain.slowest:.2f}–{gain.fastest:.2f} | {by_steps} | {same} |"
            )
        if scripted:
            shown = ", ".join(f"{cost:.2f}" for cost in each.rows)
            lines.append(f"\nA step over 1, 2, … rows against one row: {shown}.")
        lines.append(_where(each))
    return "\n".join(lines)


def _rows(decoder: Decoder, rounds: int, clock: Clock) -> Iterator[float]:
    """Steps over 1 to MAXIMUM_DRAFT + 1 rows in turn, behind the sequence that there is."""
    before, interrupt = len(decoder.cache), Interrupt()
    seconds: dict[int, list[float]] = {}
    for _ in range(3 * rounds):
        for count in range(1, MAXIMUM_DRAFT + 2):
            started = clock()
            decoder.extend([1] * count, interrupt)
            seconds.setdefault(count, []).append(clock() - started)
            decoder.rewind(before)
    single = median(seconds[1])
    return (median(taken) / single for taken in seconds.values())


def _clock(processor_time: bool) -> Clock:
    return time.process_time if processor_time else time.perf_counter


def _measured(
    bundle: Path, threads: int, gains: Sequence[Gain], rows: tuple[float, ...], processor_time: bool
) -> Measured:
    return Measured(
        bundle.resolve().name, "processor time" if processor_time else "wall time", threads, tuple(gains), rows,
        datetime.now(UTC).date().isoformat(), machine.describe(), machine.versions(),
    )


def _where(measured: Measured) -> str:
    where = measured.machine
    return (
        f"\n{where['processor']}, {where['processors']} processors, {where['system']},"
        f" ONNX Runtime {measured.versions.get('onnxruntime')}, {measured.date}.\n"
    )

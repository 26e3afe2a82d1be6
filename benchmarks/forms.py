"""Answers that must follow a schema: whether they do, and what the constraint costs a token.

Boundary: a bundle, or the tokenizer of one, in; figures out. jsonschema is the judge of the answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from edgephi.runtime.constraint import Constraints
from edgephi.runtime.errors import RequestError
from edgephi.runtime.grammar import answer_form, build_grammar
from edgephi.runtime.loading import load
from edgephi.runtime.sampling import Sampler, Sampling
from edgephi.runtime.session import Session
from edgephi.runtime.tokens import Tokenizer

from . import machine
from .form_schemas import SCHEMAS

LONGEST = 8192
TEMPERATURES = (1.0, 1.5, 0.7, 1.0)
PROMPT = "Give me an example."


@dataclass(frozen=True)
class Validity:
    """Answers of one bundle under one schema. `cut`: they met the limit of tokens, so there is nothing to judge."""

    bundle: str
    schema: str
    answers: int
    valid: int
    cut: int
    tokens: int
    forced: int


@dataclass(frozen=True)
class Cost:
    """What constraints cost at one vocabulary, over answers under all schemas, chosen greedily from random logits.

    Times are of one thread's processor, in microseconds a token: `plain` is a choice without a constraint,
    `constrained` one with it, where there is something to choose. `forced_share` of the tokens were forced and need no
    look at logits. `prepare_seconds` once a session, `compile_milliseconds` once a schema. (Drawing at a temperature
    gets cheaper by a constraint, as fewer tokens are left to draw from.)
    """

    vocabulary: int
    tokens: int
    forced_share: float
    plain: float
    constrained: float
    worst: float
    prepare_seconds: float
    compile_milliseconds: float

    @property
    def overhead(self) -> float:
        """Microseconds that a constraint adds to a token that the model is asked for."""
        return self.constrained - self.plain


def validity(bundle: Path, generations: int, threads: int, progress: Callable[[str], None]) -> list[Validity]:
    """Answers of `bundle` under each schema, each to another prompt and drawn at one of TEMPERATURES.

    None is greedy: random weights then repeat themselves, and a number or text without a bound goes on to the limit.
    """
    with load(bundle, threads=threads) as session:
        found = []
        for name, schema in SCHEMAS.items():
            found.append(_judge(session, bundle.name, name, schema, generations))
            progress(f"{bundle.name}, {name}: {found[-1].valid} of {found[-1].answers}")
        return found


def _judge(session: Session, bundle: str, name: str, schema: Any, generations: int) -> Validity:
    import jsonschema

    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    valid = cut = tokens = forced = 0
    for seed in range(generations):
        temperature = TEMPERATURES[seed % len(TEMPERATURES)]
        reply = session.generate(
            f"{PROMPT} {seed}", schema=schema, temperature=temperature, seed=seed, max_tokens=LONGEST
        )
        tokens += reply.usage.completion_tokens
        forced += reply.usage.drafted_tokens
        if reply.finish_reason != "stop":
            cut += 1
            continue
        valid += not list(judge.iter_errors(json.loads(reply.text)))
    return Validity(bundle, name, generations, valid, cut, tokens, forced)


def cost(folder: Path, tokens: int) -> Cost:
    """Measure on the tokenizer, config.json and generation_config.json of a bundle or checkpoint; no model is run.

    `tokens`: the most that are drawn under one schema. Raises RequestError.
    """
    vocabulary, ends = _vocabulary(folder)
    constraints = Constraints(Tokenizer.open(folder), vocabulary, ends)
    before = time.process_time()
    _begin(constraints, {"type": "boolean"})
    prepared = time.process_time() - before
    random = np.random.default_rng(0)
    row = random.standard_normal(vocabulary).astype(np.float32)
    times: list[float] = []
    compiled: list[float] = []
    forced = 0
    for schema in SCHEMAS.values():
        before = time.process_time()
        _begin(constraints, schema)
        compiled.append(time.process_time() - before)
        sampler = Sampler(Sampling(), constraint=_begin(constraints, schema))
        forced += _draw(sampler, row, random, ends, tokens, times)
    alone: list[float] = []
    _draw(Sampler(Sampling()), row, random, (), len(times), alone)
    return Cost(
        vocabulary, len(times) + forced, forced / (len(times) + forced), 1e6 * mean(alone), 1e6 * mean(times),
        1e6 * max(times), prepared, 1e3 * mean(compiled),
    )


def _draw(
    sampler: Sampler, row: np.ndarray, random: np.random.Generator, ends: Sequence[int], tokens: int,
    times: list[float],
) -> int:  # fmt: skip
    """Choose one answer from `row`, shifted anew for each token; the seconds of each choice go to `times`. How many
    tokens were forced.
    """
    forced = 0
    for _ in range(tokens):
        logits, is_forced = np.roll(row, random.integers(len(row))), bool(sampler.forced)
        before = time.thread_time()
        chosen = sampler.choose(logits).token_id
        spent = time.thread_time() - before
        if is_forced:
            forced += 1
        else:
            times.append(spent)
        if chosen in ends:
            break
    return forced


def _begin(constraints: Constraints, schema: Any) -> Any:
    grammar = build_grammar(answer_form(schema=schema), None, "auto", constraints.marks)
    assert grammar is not None
    return constraints.begin(grammar, [])


def _vocabulary(folder: Path) -> tuple[int, tuple[int, ...]]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        ends = json.loads((folder / "generation_config.json").read_bytes())["eos_token_id"]
        return int(config["vocab_size"]), tuple(ends if isinstance(ends, list) else [ends])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder}: config.json or generation_config.json is missing or damaged ({error}); give a bundle"
        ) from error


def validity_table(found: Sequence[Validity]) -> str:
    """The sums of one bundle, and every schema under which an answer was cut or wrong."""
    answers, valid, cut = (sum(getattr(one, name) for one in found) for name in ("answers", "valid", "cut"))
    tokens, forced = sum(one.tokens for one in found), sum(one.forced for one in found)
    lines = [
        f"{found[0].bundle}: {valid} of {answers} answers under {len(found)} schemas are valid, {cut} were cut at"
        f" {LONGEST} tokens; {tokens} tokens, {forced / max(tokens, 1):.0%} of them without a step of their own."
    ]
    short = [one for one in found if one.valid < one.answers]
    lines += [f"- {one.schema}: {one.valid} of {one.answers}, {one.cut} cut" for one in short]
    return "\n".join(lines)


def cost_table(measured: Cost, step_milliseconds: float) -> str:
    """The cost of a token, and its share of a step of `step_milliseconds`."""
    share = measured.overhead / 1e3 / step_milliseconds
    return "\n".join([
        f"Vocabulary of {measured.vocabulary}: {measured.overhead:.0f} µs a token more than without a constraint"
        f" ({measured.constrained:.0f} against {measured.plain:.0f} µs, worst {measured.worst:.0f} µs),"
        f" {share:.2%} of a step of {step_milliseconds:.0f} ms.",
        f"{measured.forced_share:.0%} of {measured.tokens} tokens are forced and cost no step of their own.",
        f"Once a session {measured.prepare_seconds:.1f} s, once a schema {measured.compile_milliseconds:.2f} ms.",
    ])


def write(results: Path, name: str, figures: object, table: str) -> None:
    """NAME.json and NAME.md in the folder of the results."""
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine.describe(), "figures": figures}, indent=1)
    (results / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (results / f"{name}.md").write_text(table + "\n", encoding="utf-8")


def as_data(found: Sequence[Validity] | Cost) -> object:
    """Figures as plain data."""
    return asdict(found) if isinstance(found, Cost) else [asdict(one) for one in found]

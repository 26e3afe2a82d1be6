"""The verb `edgephi bench`: how fast a bundle reads and writes on this machine.

Boundary: measures through the public session and compares with nothing; other programs are measured by benchmarks/.
The names follow llama-bench, which users know: pp512 reads a prompt of 512 tokens, tg64 writes 64.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .answering import Waiting, note
from .settings import Settings, cache_option, memory_options

if TYPE_CHECKING:
    from ..session import Session
    from ..usage import Usage

SEED = 0
COMPARISON = (
    "(onnxruntime-genai, llama.cpp and OpenVINO GenAI are measured on the weights of the same checkpoint, each in an"
    " environment of its own, by `python -m edgephi.benchmarks peers CHECKPOINT --cache FOLDER`)"
)


@dataclass(frozen=True)
class Measured:
    """Samples of every run: rates in tokens per second, times in seconds, memory in bytes."""

    bundle: str
    device: str
    threads: int
    prompt_tokens: int
    answer_tokens: tuple[int, ...]
    load_seconds: float
    prefill_rates: tuple[float, ...]
    decode_rates: tuple[float, ...]
    first_token_seconds: tuple[float, ...]
    peak_memory: int


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", type=click.IntRange(1), default=512, show_default=True, help="Tokens to read.")
@click.option("-n", "--answer", type=click.IntRange(2), default=64, show_default=True, help="Tokens to write.")
@click.option("-r", "--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs, after one to warm up.")
@click.option("-c", "--context", type=int, metavar="N", help="Longest conversation, in tokens.")
@click.option("-t", "--threads", type=int, metavar="N", help="Default: the physical cores.")
@memory_options
@cache_option
@click.option("--device", default="cpu", show_default=True, help="What computes.")
@click.option("--compare", is_flag=True, help="Say how other programs are measured beside edgephi.")
@click.option("--json", "as_json", is_flag=True, help="Print all samples as one JSON object.")
def bench(
    bundle: Path,
    prompt: int,
    answer: int,
    runs: int,
    context: int | None,
    threads: int | None,
    mapped: bool,
    allow_oversized: bool,
    kv: str,
    device: str,
    compare: bool,
    as_json: bool,
) -> None:
    """Measure how fast BUNDLE reads a prompt and writes an answer on this machine."""
    with Waiting(f"loading {bundle.name}"):
        from ..loading import load

        started = time.perf_counter()
        session = load(
            bundle, device=device, threads=threads, context=context, mapped=mapped, allow_oversized=allow_oversized,
            kv=kv, prefix_cache=False,  # else every run but the first would find its prompt read
        )
        load_seconds = time.perf_counter() - started
    with session, Waiting("measuring") as waiting:
        ids = _prompt(session, prompt)
        usages = []
        for number in range(runs + 1):
            waiting.report("runs", number, runs + 1)
            usages.append(_run(session, ids, answer))
    measured = _measured(bundle, load_seconds, usages[1:])
    if as_json:
        click.echo(json.dumps(asdict(measured)))
    else:
        for name, text in _lines(measured, answer):
            click.echo(f"{name:14}{text}")
    if min(measured.answer_tokens) < answer:
        note(f"(the model ended its answer after {min(measured.answer_tokens)} of {answer} tokens)")
    if compare:
        note(COMPARISON)


def _prompt(session: Session, length: int) -> list[int]:
    """The same tokens every time, none of which ends an answer."""
    ends = set(session.manifest.tokens.eos)
    allowed = [token for token in range(session.manifest.text.vocab_size) if token not in ends]
    return random.Random(SEED).choices(allowed, k=length)


def _run(session: Session, ids: list[int], answer: int) -> Usage:
    session.clear()
    options = Settings(max_tokens=answer, temperature=0.0).options()
    # Without drafts: random text repeats itself, and guessing repetitions would flatter the rate.
    return session.generate(ids, **options | {"draft": False}).usage


def _measured(bundle: Path, load_seconds: float, usages: Sequence[Usage]) -> Measured:
    return Measured(
        bundle=str(bundle),
        device=usages[0].device,
        threads=usages[0].threads,
        prompt_tokens=usages[0].prompt_tokens,
        answer_tokens=tuple(usage.completion_tokens for usage in usages),
        load_seconds=load_seconds,
        prefill_rates=tuple(usage.prefill_rate for usage in usages if usage.prefill_rate is not None),
        decode_rates=tuple(usage.decode_rate for usage in usages if usage.decode_rate is not None),
        first_token_seconds=tuple(
            usage.time_to_first_token for usage in usages if usage.time_to_first_token is not None
        ),
        peak_memory=max(usage.peak_memory for usage in usages),
    )


def _lines(measured: Measured, answer: int) -> list[tuple[str, str]]:
    return [
        (f"pp{measured.prompt_tokens}", f"{_spread(measured.prefill_rates)} tokens/s"),
        (f"tg{answer}", f"{_spread(measured.decode_rates)} tokens/s"),
        ("first token", f"{_spread(measured.first_token_seconds, digits=3)} s"),
        ("load", f"{measured.load_seconds:.2f} s"),
        ("peak memory", f"{measured.peak_memory / 1e9:.2f} GB"),
        ("on", f"{measured.device}, {measured.threads} threads"),
    ]


def _spread(samples: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation; a dash where the answer was too short to measure."""
    if not samples:
        return "-"
    deviation = statistics.stdev(samples) if len(samples) > 1 else 0.0
    return f"{statistics.fmean(samples):.{digits}f} ± {deviation:.{digits}f}"

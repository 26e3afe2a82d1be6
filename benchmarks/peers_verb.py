"""`python -m edgephi.benchmarks peers` and `turns`: edgephi beside onnxruntime-genai, llama.cpp and OpenVINO GenAI.

Boundary: options in, result files out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgephi.runtime.providers.cpu import default_threads

from . import comparison, comparison_report, environments
from . import turns as in_turn
from .options import results_option
from .peers import layers

QUICK_LAYERS = 8


def _contenders(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is compared, on whose weights."""
    for option in (
        click.option("-t", "--threads", type=click.IntRange(1), help="Of every runtime; default: the physical cores."),
        click.option("--quick", is_flag=True, help=f"Only the first {QUICK_LAYERS} layers, for everyday use."),
        click.option(
            "--peer", "names", multiple=True, default=list(environments.PEERS), show_default=True,
            help="PEER or PEER:VARIANT; may be given several times.",
        ),
        click.option(
            "--cache", required=True, type=click.Path(path_type=Path),
            help="Folder that keeps environments and converted models: some GB a peer.",
        ),
        click.argument("checkpoint", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


@click.command()
@_contenders
@click.option(
    "--stage", "stages", multiple=True, default=["64:4", "512:4", "2048:2", "4096:1"], show_default=True,
    help="LENGTH:ROUNDS of a prompt; may be given several times.",
)
@click.option("--steps", default=16, show_default=True, type=click.IntRange(1), help="Tokens of an answer.")
@click.option("--prepare", is_flag=True, help="Install and convert what is missing, measure nothing.")
@click.option("--name", default="peers", show_default=True, help="Of the result files.")
@results_option
def peers(
    checkpoint: Path, cache: Path, names: tuple[str, ...], quick: bool, stages: tuple[str, ...], steps: int,
    threads: int | None, prepare: bool, name: str, results: Path,
) -> None:
    """Measure edgephi and its peers on the weights of CHECKPOINT, one after the other in every round."""
    plan = [comparison.Stage.parse(stage, steps) for stage in stages]
    threads = threads or default_threads()
    checkpoint, contenders = _prepared(checkpoint, cache, names, threads, quick=quick)
    if prepare:
        return
    runs = []
    vocabulary = layers.config(checkpoint)["vocab_size"]
    for run in comparison.measure(contenders, plan, threads, vocabulary, _say):
        runs.append(run)
        # after every run: an interruption loses one of them
        text = comparison_report.write(checkpoint.name, threads, contenders, runs, results, name)
    click.echo(text)


@click.command()
@_contenders
@click.option("--length", "lengths", multiple=True, default=[512, 2048], show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=16, show_default=True, type=click.IntRange(1))
@click.option("--burst", default=8, show_default=True, type=click.IntRange(1), help="Tokens a turn.")
@results_option
def turns(
    checkpoint: Path, cache: Path, names: tuple[str, ...], quick: bool, threads: int | None, lengths: tuple[int, ...],
    rounds: int, burst: int, results: Path,
) -> None:
    """Let edgephi and its peers decode in turns, all in memory at once: name as many as fit."""
    threads = threads or default_threads()
    checkpoint, contenders = _prepared(checkpoint, cache, names, threads, quick=quick)
    vocabulary = layers.config(checkpoint)["vocab_size"]
    measured = in_turn.measure(contenders, lengths, rounds, burst, threads, vocabulary, checkpoint.name, _say)
    click.echo(in_turn.write(measured, results))


def _prepared(
    checkpoint: Path, cache: Path, names: tuple[str, ...], threads: int, *, quick: bool
) -> tuple[Path, list[environments.Contender]]:
    """The checkpoint, cut where asked for, and everything that is compared on it; what is missing is made."""
    chosen, cache = environments.choose(names), cache.resolve()
    checkpoint = environments.shortened(checkpoint.resolve(), QUICK_LAYERS if quick else None, cache, _say)
    return checkpoint, [
        environments.prepare(peer, variant, checkpoint, cache, threads, _say) for peer, variant in chosen
    ]


def _say(text: str) -> None:
    click.echo(text, err=True)

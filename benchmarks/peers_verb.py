"""`python -m edgephi.benchmarks peers`: edgephi beside onnxruntime-genai, llama.cpp and OpenVINO GenAI.

Boundary: options in, result files out.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgephi.runtime.providers.cpu import default_threads

from . import comparison, comparison_report, environments
from .options import results_option
from .peers import layers

QUICK_LAYERS = 8


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--cache", required=True, type=click.Path(path_type=Path),
    help="Folder that keeps environments and converted models: some GB a peer.",
)
@click.option(
    "--peer", "names", multiple=True, default=list(environments.PEERS), show_default=True,
    help="PEER or PEER:VARIANT; may be given several times.",
)
@click.option("--quick", is_flag=True, help=f"Only the first {QUICK_LAYERS} layers, for everyday use.")
@click.option(
    "--stage", "stages", multiple=True, default=["64:4", "512:4", "2048:2", "4096:1"], show_default=True,
    help="LENGTH:ROUNDS of a prompt; may be given several times.",
)
@click.option("--steps", default=16, show_default=True, type=click.IntRange(1), help="Tokens of an answer.")
@click.option("-t", "--threads", type=click.IntRange(1), help="Of every runtime; default: the physical cores.")
@click.option("--prepare", is_flag=True, help="Install and convert what is missing, measure nothing.")
@click.option("--name", default="peers", show_default=True, help="Of the result files.")
@results_option
def peers(
    checkpoint: Path, cache: Path, names: tuple[str, ...], quick: bool, stages: tuple[str, ...], steps: int,
    threads: int | None, prepare: bool, name: str, results: Path,
) -> None:
    """Measure edgephi and its peers on the weights of CHECKPOINT, one after the other in every round."""

    def say(text: str) -> None:
        click.echo(text, err=True)

    chosen = environments.choose(names)
    plan = [comparison.Stage.parse(stage, steps) for stage in stages]
    threads = threads or default_threads()
    cache = cache.resolve()
    checkpoint = environments.shortened(checkpoint.resolve(), QUICK_LAYERS if quick else None, cache, say)
    contenders = [environments.prepare(peer, variant, checkpoint, cache, threads, say) for peer, variant in chosen]
    if prepare:
        return
    runs = []
    vocabulary = layers.config(checkpoint)["vocab_size"]
    for run in comparison.measure(contenders, plan, threads, vocabulary, say):
        runs.append(run)
        # after every run: an interruption loses one of them
        text = comparison_report.write(checkpoint.name, threads, contenders, runs, results, name)
    click.echo(text)

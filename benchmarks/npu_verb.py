"""The verbs `deepen` and `npu` of `python -m edgephi.benchmarks`.

Boundary: options in, a table out; the work is that of deepened.py and npu.py.
"""

from __future__ import annotations

from pathlib import Path

import click

from . import deepened, npu
from .options import results_option


@click.command("deepen")
@click.option("--layers", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the checkpoint.")
def deepen(layers: int, output: Path) -> None:
    """Write the text part of the demo's checkpoint, with more layers; it still knows its tasks."""
    deepened.write(output, layers)


@click.command("npu")
@click.argument("checkpoint_folder", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--soc", "generations", multiple=True, default=["x-elite", "x2-elite"], show_default=True)
@click.option("-c", "--context", default=256, show_default=True, type=click.IntRange(min=128))
@click.option("--prompt", "prompts", multiple=True, type=click.IntRange(min=1), help="Tokens; none for sizes alone.")
@click.option("--answer", default=4, show_default=True, type=click.IntRange(min=1), help="Tokens to write.")
@click.option("--method", default="round_to_nearest", show_default=True, help="Of the export.")
@results_option
def measure_npu(
    checkpoint_folder: Path, generations: tuple[str, ...], context: int, prompts: tuple[int, ...], answer: int,
    method: str, results: Path,
) -> None:
    """Compile CHECKPOINT for each generation with one set of weights and with two, and run prompts in the simulator.

    The simulator is slow, and its prompts are for checkpoints of the demo's tokenizer, such as those of `deepen`.
    """
    plan = npu.Plan(generations, context, prompts, answer, method)
    click.echo(npu.table(npu.measure(checkpoint_folder, plan, results)))

"""The verb `session-cost` of `python -m edgephi.benchmarks`.

Boundary: options in, a table out; measuring is session_cost.py's.
"""

from __future__ import annotations

from pathlib import Path

import click

from . import session_cost
from .options import results_option, threads_option


@click.command("session-cost")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--prompt", default=512, show_default=True, type=click.IntRange(min=1), help="Tokens to read.")
@click.option("--answer", default=32, show_default=True, type=click.IntRange(min=2), help="Tokens to write.")
@click.option("--image", type=click.IntRange(min=1), help="Ask about a picture of so many pixels a side instead.")
@click.option("--mapped", is_flag=True, help="Map the weights from a prepared file.")
@click.option("--compare", is_flag=True, help="Foresee each bundle as `edgephi fit` does, and say how far off that is.")
@click.option("--processor-time", is_flag=True, help="Count processor time, on a machine that is busy; one thread.")
@threads_option
@results_option
def session(
    bundles: tuple[Path, ...], prompt: int, answer: int, image: int | None, mapped: bool, compare: bool,
    processor_time: bool, threads: int | None, results: Path,
) -> None:
    """Load each of BUNDLES in a process of its own and note memory, load time and speed."""
    if compare and (image is not None or mapped):
        raise click.UsageError("--compare foresees text and own weights: without --image and --mapped")
    question = session_cost.Question(prompt, answer, threads, mapped, image)
    costs = []
    for bundle in bundles:
        costs.append(session_cost.measure(bundle, question, compare=compare, processor_time=processor_time))
        session_cost.note(costs[-1:], results)
    click.echo(session_cost.table(costs))

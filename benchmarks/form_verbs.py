"""The verbs `schema-validity` and `schema-cost` of `python -m edgephi.benchmarks`.

Boundary: options in, tables out; measuring is forms.py's.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgephi.runtime.errors import RequestError
from edgephi.runtime.providers.cpu import default_threads

from . import forms
from .options import results_option, threads_option


@click.command("schema-validity")
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--generations", default=20, show_default=True, type=click.IntRange(min=1), help="Of each schema.")
@threads_option
@results_option
def measure_validity(bundles: tuple[Path, ...], generations: int, threads: int | None, results: Path) -> None:
    """Ask each BUNDLE, whose weights may be random, for answers under 50 schemas and have jsonschema judge them."""
    count = threads or default_threads()
    found = [forms.validity(bundle, generations, count, lambda text: click.echo(text, err=True)) for bundle in bundles]
    table = "\n".join(map(forms.validity_table, found))
    every = [one for of_bundle in found for one in of_bundle]
    forms.write(results, "schema_validity", forms.as_data(every), table)
    click.echo(table)
    if any(one.valid < one.answers for one in every):
        raise RequestError("some answers do not follow their schema or were cut: see the table")


@click.command("schema-cost")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(min=1), help="At most, of an answer.")
@click.option(
    "--step-ms", default=100.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="Time of one decode step, to compare with.",
)
@results_option
def measure_cost(folder: Path, tokens: int, step_ms: float, results: Path) -> None:
    """Measure what a constraint adds to a token with the tokenizer of FOLDER, a bundle or checkpoint; no model runs."""
    measured = forms.cost(folder, tokens)
    table = forms.cost_table(measured, step_ms)
    forms.write(results, "schema_cost", forms.as_data(measured), table)
    click.echo(table)

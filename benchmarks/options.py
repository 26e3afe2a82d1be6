"""Options that several verbs of `python -m edgephi.benchmarks` take."""

from __future__ import annotations

from pathlib import Path

import click

threads_option = click.option("--threads", type=click.IntRange(min=1), help="Default: the physical cores.")
results_option = click.option(
    "--results", default=Path("benchmarks/results"), show_default=True, type=click.Path(path_type=Path),
    help="Folder of the result files.",
)

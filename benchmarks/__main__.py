"""`python -m edgephi.benchmarks VERB`: makes what is measured, and measures it.

Boundary: options in, reports out. Reports go to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgephi.runtime import large_pages
from edgephi.runtime.errors import EdgePhiError, RequestError
from edgephi.runtime.providers.cpu import default_threads

from . import (
    analysis,
    cache_error,
    checkpoints,
    encoder_error,
    export_cost,
    form_verbs,
    fuzz,
    installed_size,
    latency_verb,
    load,
    loop_overhead,
    media_latency,
    node_profile,
    npu_verb,
    peers_verb,
    published,
    quality,
    session_verb,
)
from .options import results_option, threads_option

PROFILED_PROMPT = 512


@click.group()
def cli() -> None:
    """Measures edgephi."""


@cli.command()
@click.argument("model", type=click.Choice(sorted(published.MODELS)))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the checkpoint.")
@click.option("--layers", type=click.IntRange(min=1), help="Of the decoder; default: as many as were published.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def checkpoint(model: str, output: Path, layers: int | None, seed: int) -> None:
    """Write a checkpoint of random weights with the shape of a published model."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    chosen = published.find(model)
    if layers is not None:
        chosen = chosen.with_layers(layers)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing", total=None)

        def progress(tensor: str, done: int, total: int) -> None:
            bar.update(task, description=tensor, completed=done, total=total)

        nbytes = checkpoints.write(chosen, output, seed, progress)
    click.echo(f"{output}: {nbytes / 1e9:.2f} GB of random weights", err=True)


@cli.command("export-cost")
@click.argument("checkpoint_folders", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--case", "cases", multiple=True, default=["int4:balanced"], show_default=True,
    help="PRECISION[:PRESET[:METHOD]]; may be given several times.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder that keeps the bundles; default: none.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: what the export chooses.")
@results_option
def measure_export(
    checkpoint_folders: tuple[Path, ...], cases: tuple[str, ...], output: Path | None, threads: int | None,
    results: Path,
) -> None:
    """Export each CHECKPOINT in a process of its own and note time, memory and sizes."""
    chosen = [export_cost.Case.parse(case) for case in cases]
    costs = [
        cost for folder in checkpoint_folders
        for cost in export_cost.measure(folder.resolve(), chosen, output, threads, results)
    ]
    click.echo(export_cost.table(costs))


@cli.command("quality")
@click.option(
    "--case", "cases", multiple=True, default=list(quality.CASES), show_default=True,
    help="PRECISION or PRECISION:PRESET; may be given several times.",
)
@click.option("--examples", default=200, show_default=True, type=click.IntRange(min=1), help="Questions of each task.")
@click.option("--compared", default=50, show_default=True, type=click.IntRange(min=1), help="Conversations for the KL.")
@click.option(
    "--checkpoint", "checkpoint_folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Of the demo's training; default: the shipped one.",
)
@threads_option
@results_option
def measure_quality(
    cases: tuple[str, ...], examples: int, compared: int, checkpoint_folder: Path | None, threads: int | None,
    results: Path,
) -> None:
    """Compare the answers of the shipped checkpoint in each precision with the reference."""
    measured = quality.measure(cases, examples, min(compared, examples), threads, _count, checkpoint_folder)
    quality.write(measured, results)
    click.echo(quality.table(measured))


@cli.command("media-latency")
@click.argument("bundle", type=click.Path(path_type=Path))
@threads_option
@results_option
def measure_media(bundle: Path, threads: int | None, results: Path) -> None:
    """Ask BUNDLE about pictures and speech, each time in a fresh process: time to the first token, memory."""
    measured = media_latency.measure(bundle, threads, _count)
    media_latency.write(measured, results)
    click.echo(media_latency.table(measured))


@cli.command("encoder-error")
@click.argument("checkpoint_folder", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("media", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(encoder_error.PRECISIONS), default=["int8"],
    show_default=True, help="May be given several times.",
)
@threads_option
@results_option
def measure_encoders(
    checkpoint_folder: Path, media: tuple[Path, ...], precisions: tuple[str, ...], threads: int | None, results: Path
) -> None:
    """Compare the encoders of CHECKPOINT in a precision with float32 ones, on the pictures and recordings MEDIA."""
    measured = encoder_error.measure(checkpoint_folder, media, precisions, threads, _count)
    encoder_error.write(measured, results)
    click.echo(encoder_error.table(measured))


@cli.command("profile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--case", "cases", multiple=True, default=["1@64", "1@512", "1@2048", "512@0"], show_default=True,
    help="ROWS@PAST: new positions behind old ones; may be given several times.",
)
@click.option("--name", default="profile", show_default=True, help="Of the result files.")
@threads_option
@results_option
def profile_nodes(bundle: Path, cases: tuple[str, ...], name: str, threads: int | None, results: Path) -> None:
    """Show where the time of a step of BUNDLE goes, node by node, against what the machine allows."""
    threads = threads or default_threads()
    profiles = node_profile.measure(bundle, [node_profile.Case.parse(case) for case in cases], threads)
    overhead = loop_overhead.measure(bundle, threads, PROFILED_PROMPT)
    node_profile.write(bundle.name, threads, profiles, overhead, results, name)
    click.echo(node_profile.table(bundle.name, threads, profiles, overhead))


@cli.command("analysis")
@click.option("--profile", "profiles", multiple=True, default=["profile"], show_default=True, help="Names of profiles.")
@click.option("--peers", "compared", default="peers", show_default=True, help="Name of a comparison.")
@results_option
def write_analysis(profiles: tuple[str, ...], compared: str, results: Path) -> None:
    """Set profiles of our steps beside the speeds of other runtimes, from the result files of both."""
    click.echo(analysis.write(results, profiles, compared))


@cli.command("cache-error")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--examples", default=20, show_default=True, type=click.IntRange(min=1), help="Questions of each task.")
@threads_option
@results_option
def measure_cache_error(bundle: Path, examples: int, threads: int | None, results: Path) -> None:
    """Compare the answers of BUNDLE, made from a checkpoint of `deepen`, over an INT8 cache and a float one."""
    found = cache_error.measure(bundle, examples, threads or default_threads())
    cache_error.write(found, results)
    click.echo(cache_error.table(found))


@cli.command("installed-size")
@results_option
def measure_installed_size(results: Path) -> None:
    """Measure what an installation for inference takes: bytes of every package, processor time of a start."""
    packages, starts = installed_size.packages(), installed_size.starts()
    installed_size.write(packages, starts, results)
    click.echo(installed_size.table(packages, starts))


@cli.command("load")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--clients", default=32, show_default=True, type=click.IntRange(min=1))
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--places", default=16, show_default=True, type=click.IntRange(min=1), help="In the server's queue.")
@click.option("--seed", default=0, show_default=True, help="Other questions, other moments of leaving.")
@threads_option
@results_option
def measure_load(
    bundle: Path, clients: int, minutes: float, places: int, seed: int, threads: int | None, results: Path
) -> None:
    """Ask a server of BUNDLE, made from the demo's checkpoint, from many clients at once, and check every answer."""
    measured = load.measure(bundle, clients, 60 * minutes, places=places, talks=64, threads=threads, seed=seed)
    load.write(measured, results)
    click.echo(load.table(measured))
    if measured.mistakes:
        raise RequestError(f"{len(measured.mistakes)} answers were wrong or lost: see {results / load.RESULTS_NAME}")


@cli.command("fuzz")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--examples", default=400, show_default=True, type=click.IntRange(min=1), help="For each operation.")
@click.option("--seed", default=2026, show_default=True, help="Other requests.")
@threads_option
@results_option
def measure_fuzz(bundle: Path, examples: int, seed: int, threads: int | None, results: Path) -> None:
    """Send a server of BUNDLE whatever schemathesis makes of its OpenAPI document (extra `test`)."""
    found = fuzz.measure(bundle, examples, seed, threads)
    fuzz.write(found, results)
    click.echo(f"{found.generated} requests, {found.generated - found.passed} failed")
    if found.exit_code:
        raise RequestError(f"schemathesis found something: see {results / fuzz.RESULTS_NAME}")


cli.add_command(peers_verb.peers)
cli.add_command(peers_verb.turns)
cli.add_command(session_verb.session)
cli.add_command(npu_verb.deepen)
cli.add_command(npu_verb.measure_npu)
cli.add_command(form_verbs.measure_validity)
cli.add_command(form_verbs.measure_cost)
cli.add_command(latency_verb.measure_speculation)
cli.add_command(latency_verb.measure_prefix_cache)
cli.add_command(latency_verb.measure_switch)
cli.add_command(latency_verb.measure_threads)


def _count(name: str, number: int, total: int) -> None:
    click.echo(f"{number + 1} of {total}: {name}", err=True)


def main() -> None:
    """Run the command line; an expected error is one line and exit code 1."""
    if sys.argv[1:2] not in (["peers"], ["turns"]):  # other runtimes are measured as their own programs start them
        large_pages.start_anew()
    try:
        cli(prog_name="python -m edgephi.benchmarks")
    except EdgePhiError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

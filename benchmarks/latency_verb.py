"""The verbs `speculation`, `prefix-cache`, `switch-cost` and `threads` of `python -m edgephi.benchmarks`.

Boundary: options in, tables out; measuring is that of the files that are imported here.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgephi.runtime.providers.cpu import default_threads

from . import prefixes, speculation, switch_cost, thread_settings
from .options import results_option, threads_option

_processor_time = click.option(
    "--processor-time", is_flag=True, help="Count processor time, on a machine that is busy; give one thread."
)


@click.command("speculation")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--demo", type=click.Path(path_type=Path), help="The bundle of `edgephi demo`, to be answered.")
@click.option(
    "--vocabulary", type=click.Path(path_type=Path), help="tokenizer.json that cuts the scripts; default: BUNDLE's own."
)
@click.option("--prompts", default=200, show_default=True, type=click.IntRange(min=1), help="Questions to the demo.")
@click.option("--tokens", default=300, show_default=True, type=click.IntRange(50, 1000), help="Of a scripted answer.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@threads_option
@_processor_time
@results_option
def measure_speculation(
    bundle: Path, demo: Path | None, vocabulary: Path | None, prompts: int, tokens: int, rounds: int,
    threads: int | None, processor_time: bool, results: Path,
) -> None:
    """Decode with and without drafting: scripts on BUNDLE, whose weights may be random, and the demo's own answers."""
    count = threads or default_threads()

    def progress(kind: str) -> None:
        click.echo(kind, err=True)

    found = []
    if demo is not None:
        found.append(speculation.measure_demo(demo, prompts, count, processor_time=processor_time, progress=progress))
    found.append(speculation.measure_scripted(
        bundle, vocabulary or bundle / "tokenizer.json", tokens, rounds, count, processor_time=processor_time,
        progress=progress,
    ))
    speculation.write(found, results)
    click.echo(speculation.table(found))


@click.command("prefix-cache")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--tokens", default=2000, show_default=True, type=click.IntRange(min=64), help="Of the prefix.")
@click.option("--image", is_flag=True, help="Ask about a picture as well, where the bundle takes them.")
@threads_option
@_processor_time
@results_option
def measure_prefix_cache(
    bundle: Path, tokens: int, image: bool, threads: int | None, processor_time: bool, results: Path
) -> None:
    """Time to the first token behind a prefix: the first time, again from memory, and from disk after a restart."""
    found = prefixes.measure(
        bundle, tokens, threads or default_threads(), image=image, processor_time=processor_time
    )
    prefixes.write(found, results)
    click.echo(prefixes.table(found))


@click.command("switch-cost")
@click.argument("bundle", type=click.Path(path_type=Path))
@threads_option
@results_option
def measure_switch(bundle: Path, threads: int | None, results: Path) -> None:
    """The token at which a LongRoPE model changes its rotary table, in an ordinary session and in a long one."""
    count = threads or default_threads()
    found = switch_cost.measure(bundle, count)
    switch_cost.write(bundle.resolve().name, count, found, results)
    click.echo(switch_cost.table(bundle.resolve().name, count, found))


@click.command("threads")
@click.argument("bundle", type=click.Path(path_type=Path))
@results_option
def measure_threads(bundle: Path, results: Path) -> None:
    """A token of BUNDLE on one core, two, and two of which one is slower, with threads that spin and that do not."""
    found = thread_settings.measure(bundle)
    thread_settings.write(bundle.resolve().name, found, results)
    click.echo(thread_settings.table(bundle.resolve().name, found))

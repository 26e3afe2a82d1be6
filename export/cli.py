"""The verbs `edgephi export`, `edgephi compile` and `edgephi verify`.

Boundary: options in, reports out; the work is done by pipeline.py, compile.py and verify.py, which are loaded when a
verb runs. Progress and reports go to stderr; with --json the report goes to stdout as one JSON object. Errors are
raised as they are: the program's entry turns them into one line and an exit code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console

    from .pipeline import ExportReport
    from .verify import Verification

PRECISIONS = ("int4", "int8", "fp16", "fp32")
PRESETS = ("fast", "balanced", "quality")
WORST = 5


class Report(Protocol):
    """Receives what a long task is doing, how much is done and how much there is, in bytes."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show it."""


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter(f"{value!r} names nothing: give NAME or NAME,NAME")
    return names


@click.command()
@click.argument("checkpoint")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the bundle.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="int4", show_default=True, help="Of the weights.")
@click.option("--device", default="cpu", show_default=True, help="What the bundle is for: cpu, gpu, npu or a name.")
@click.option(
    "-c", "--context", type=click.IntRange(min=1), metavar="N",
    help="For an NPU, whose graphs have fixed shapes: the longest conversation in tokens. Default: 4096.",
)
@click.option(
    "--soc", metavar="NAME[,NAME]", callback=_names,
    help="For an NPU: compile its graphs now for these generations, such as x-elite,x2-elite. See `edgephi compile`.",
)
@click.option(
    "--preset", type=click.Choice(PRESETS), default="balanced", show_default=True,
    help="Size of the 4-bit blocks: larger ones are faster and lose more. `fast` also screens the head at 4 bits.",
)
@click.option(
    "--encoder-precision", type=click.Choice(PRECISIONS),
    help="Of the encoders of images and speech. Default: as --precision, int8 for int4.",
)
@click.option(
    "--adapter-precision", type=click.Choice(PRECISIONS),
    help="Of the adapters for images and speech. Default: as --precision, int8 for int4.",
)
@click.option("--method", default="grid_search", show_default=True, help="How the grid of a block is chosen.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the physical cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def export(
    checkpoint: str, output: Path, precision: str, device: str, preset: str, encoder_precision: str | None,
    adapter_precision: str | None, method: str, threads: int | None, as_json: bool, context: int | None,
    soc: tuple[str, ...],
) -> None:
    """Turn CHECKPOINT, a folder or a hub id, into a bundle of INT4 or INT8 graphs.

    An export that was interrupted goes on where it stopped when the same command is given again.
    """
    from .bundle import work_folder
    from .dependencies import require_export

    require_export()
    from . import pipeline

    console = _stderr()
    try:
        with _progress(console, "exporting") as report:
            result = pipeline.export(
                checkpoint, output, precision=precision, preset=preset, method=method, device=device,
                encoder_precision=encoder_precision, adapter_precision=adapter_precision, threads=threads,
                progress=report, context=context, soc=soc,
            )
    except KeyboardInterrupt:
        if work_folder(output).is_dir():
            console.print("Interrupted. The same command goes on where this one stopped.", highlight=False)
        raise
    if as_json:
        click.echo(json.dumps(_summary(result)))
    else:
        _show_export(console, result)


@click.command("compile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--soc", required=True, metavar="NAME[,NAME]", callback=_names,
    help="Generations by name or chip: x-elite, x2-elite, 8-gen-2, 8-gen-3, 8-elite, 8-elite-gen-5, SC8380XP, ...",
)
@click.option(
    "--share-weights/--separate-weights", default=True, show_default=True,
    help="One file of weights for all graphs, or one for each, which is what the simulator opens.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what the bundle has compiled as JSON.")
def compile_graphs(bundle: Path, soc: tuple[str, ...], share_weights: bool, as_json: bool) -> None:
    """Compile the graphs of BUNDLE, which is for an NPU, ahead of time for generations of it.

    The ONNX form stays beside the compiled ones. Needs the extra `qnn`, on any machine that its compiler runs on: Linux
    or Windows, x86-64 or Arm.
    """
    from .dependencies import require_export

    require_export()
    from .compile import compile_bundle, weight_bytes

    console = _stderr()
    with _progress(console, "compiling") as report:
        manifest = compile_bundle(bundle, soc, share_weights=share_weights, progress=report)
    sizes = {form.generation: weight_bytes(form, manifest.files) for form in manifest.compiled}
    if as_json:
        click.echo(json.dumps([asdict(form) | {"bytes": sizes[form.generation]} for form in manifest.compiled]))
        return
    for form in manifest.compiled:
        weights = "one set of weights" if form.shared_weights else "weights of their own"
        console.print(
            f"{bundle}: {', '.join(form.graphs)} for {form.generation}, {weights}, {_size(sizes[form.generation])}, "
            f"by compiler {form.compiler}", highlight=False, markup=False,
        )


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--checkpoint", help="Folder or hub id: compare every layer with it.")
@click.option("--threads", type=click.IntRange(min=1), help="Default: the physical cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(bundle: Path, checkpoint: str | None, threads: int | None, as_json: bool) -> None:
    """Check that BUNDLE is the one that was exported and that it computes.

    Hashes every file, loads every graph and runs a few tokens. With --checkpoint, each layer is compared with a plain
    float32 computation from the checkpoint's own weights.
    """
    from .dependencies import require_export

    if checkpoint is not None:
        require_export()
    from .verify import verify as check

    console = _stderr()
    with _progress(console, "verifying") as report:
        result = check(bundle, checkpoint=checkpoint, threads=threads, progress=report)
    if as_json:
        click.echo(json.dumps({
            "bundle": str(bundle), "files": result.files, "bytes": result.nbytes, "graphs": list(result.graphs),
            "unlisted": list(result.unlisted),
            "layers": [vars(layer) for layer in result.layers],
        }))
    else:
        _show_verification(console, bundle, result)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


@contextmanager
def _progress(console: Console, label: str) -> Iterator[Report]:
    """A bar on a terminal, nothing where stderr is a file."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(label, total=None)

    def report(stage: str, done: int, total: int) -> None:
        progress.start()  # at the first step only, so that a download can show its own bars before
        progress.update(task, description=f"{label} {stage[-48:]}", completed=done, total=total)

    try:
        yield report
    finally:
        progress.stop()


def _summary(result: ExportReport) -> dict[str, object]:
    return {
        "bundle": str(result.bundle),
        "checkpoint_bytes": result.checkpoint_bytes,
        "bundle_bytes": result.bundle_bytes,
        "files": dict(result.files),
        "seconds": round(result.seconds, 3),
        "peak_memory": result.peak_memory,
        "resumed": result.resumed,
        "unread_config_keys": list(result.unread_config_keys),
        "tensors": [tensor.to_json() for tensor in result.tensors],
    }


def _show_export(console: Console, result: ExportReport) -> None:
    from rich import box
    from rich.table import Table

    kinds: dict[str, list[float]] = {}
    for tensor in result.tensors:
        sums = kinds.setdefault(tensor.format, [0, 0, 0, 0.0])
        for index, value in enumerate((1, tensor.bytes_before, tensor.bytes_after)):
            sums[index] += value
        sums[3] = max(sums[3], tensor.relative_error)
    formats = Table("format", "tensors", "before", "after", "largest error", box=box.SIMPLE)
    for name, (count, before, after, error) in sorted(kinds.items()):
        formats.add_row(name, str(int(count)), _size(before), _size(after), f"{error:.2%}")
    files = Table("file", "size", box=box.SIMPLE)
    for name, size in sorted(result.files.items(), key=lambda item: -item[1])[:WORST]:
        files.add_row(name, _size(size))
    worst = Table("largest errors", "format", "relative error", box=box.SIMPLE)
    for tensor in sorted(result.tensors, key=lambda item: -item.relative_error)[:WORST]:
        worst.add_row(tensor.name, tensor.format, f"{tensor.relative_error:.2%}")
    for table in (formats, worst, files):
        console.print(table)
    resumed = f", {result.resumed} weights from an interrupted export" if result.resumed else ""
    console.print(
        f"{result.bundle}: {_size(result.checkpoint_bytes)} → {_size(result.bundle_bytes)} in {result.seconds:.1f} s, "
        f"peak memory {_size(result.peak_memory)}{resumed}", highlight=False, markup=False,
    )
    if result.unread_config_keys:
        console.print(
            f"Keys of config.json that this family does not know: {', '.join(result.unread_config_keys)}",
            highlight=False, markup=False,
        )


def _show_verification(console: Console, bundle: Path, result: Verification) -> None:
    parts = [
        f"{result.files} files, {_size(result.nbytes)}, match their hashes", f"graphs {', '.join(result.graphs)} load",
    ]
    if result.layers:
        worst = max(result.layers, key=lambda layer: layer.error / layer.allowed)
        parts.append(
            f"{len(result.layers)} stages agree with the checkpoint, the closest call is {worst.name}: "
            f"{worst.error:.2%} of {worst.allowed:.2%}"
        )
    if result.unlisted:
        parts.append(f"not part of the bundle: {', '.join(result.unlisted)}")
    console.print(f"{bundle}: {'; '.join(parts)}", highlight=False, markup=False)


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:,.2f} GB"

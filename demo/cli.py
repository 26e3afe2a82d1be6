"""The verb `edgephi demo`: export the shipped checkpoint, verify the bundle, and let it answer one question of each
kind.

Boundary: options in, answers and figures out; writes nothing but the bundle folder. Answers go to stdout as they are
made, everything else to stderr; with --json one object goes to stdout instead.
"""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..export.pipeline import ExportReport
    from ..export.verify import Verification
    from .showcase import Answer
    from .tasks.example import Example

FOLDER = "edgephi-demo"


@click.command()
@click.option(
    "-o", "--output", default=FOLDER, show_default=True, type=click.Path(path_type=Path), help="Folder for the bundle."
)
@click.option(
    "--precision",
    type=click.Choice(("int4", "int8", "fp16", "fp32")),
    default="int4",
    show_default=True,
    help="Of the weights.",
)
@click.option(
    "--preset",
    type=click.Choice(("fast", "balanced", "quality")),
    default="balanced",
    show_default=True,
    help="Size of the blocks.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Another number draws other questions; the model was trained on none of them.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: the physical cores.")
@click.option("--open", "open_pictures", is_flag=True, help="Show the pictures that are asked about.")
@click.option("--json", "as_json", is_flag=True, help="Print answers and figures as one JSON object.")
def demo(
    output: Path, precision: str, preset: str, seed: int, threads: int | None, open_pictures: bool, as_json: bool
) -> None:
    """Run the small model that comes with this package: export, verify and ask it one question of each kind.

    Works offline. The bundle stays in the output folder for `edgephi run`.
    """
    from ..export.dependencies import require_export

    require_export()
    from rich.console import Console

    from ..export.pipeline import export
    from ..export.verify import verify
    from ..runtime.loading import load
    from .shipped import examples as shipped_examples
    from .shipped import media
    from .showcase import answer, examples

    console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=as_json)
    show = _ignore if as_json else _write
    with as_file(files(__package__) / "checkpoint") as checkpoint:
        with console.status(f"exporting to {precision}"):
            report = export(checkpoint, output, precision=precision, preset=preset, threads=threads)
        _show_export(console, report, precision, preset)
        with console.status("verifying"):
            verified = verify(output, checkpoint=str(checkpoint), threads=threads)
        _show_verification(console, verified)
    answers: list[Answer] = []
    with as_file(files(__package__) / "media") as folder, load(output, threads=threads) as session:
        for example in (*examples(seed), *shipped_examples(folder, session.manifest.capabilities)):
            _show_question(console, example)
            for picture in media(example, "image") if open_pictures else ():
                click.launch(str(picture))
            answers.append(answer(session, example, show))
            show("\n")
            if not answers[-1].right:
                console.print(f"expected: {example.answer}", style="red", markup=False)
    _show_answers(console, answers)
    _show_next_steps(console, output)
    if as_json:
        click.echo(json.dumps(_summary(report, verified, answers)))


def _write(text: str) -> None:
    click.echo(text, nl=False)


def _ignore(text: str) -> None:
    """With --json nothing is shown while it is made."""


def _show_export(console: Console, report: ExportReport, precision: str, preset: str) -> None:
    console.print(
        f"The shipped checkpoint, {_size(report.checkpoint_bytes)} in bfloat16, is now a bundle of "
        f"{_size(report.bundle_bytes)} in {report.bundle} ({precision}, {preset}; {report.seconds:.1f} s).",
        markup=False,
    )


def _show_verification(console: Console, verified: Verification) -> None:
    closest = max(verified.layers, key=lambda layer: layer.error / layer.allowed)
    console.print(
        f"Verified: {verified.files} files match their hashes; {len(verified.layers)} stages agree with the "
        f"checkpoint, the closest call is {closest.name} with {closest.error:.2%} of {closest.allowed:.2%}.",
        markup=False,
    )


def _show_question(console: Console, example: Example) -> None:
    from .shipped import in_words
    from .showcase import conversation

    turns, tools = conversation(example)
    turns[-1]["content"] = in_words(example)
    console.rule(example.task, align="left", style="dim")
    if tools:
        console.print(f"tools: {', '.join(_tool_name(tool) for tool in tools)}", style="dim", markup=False)
    for turn in turns:
        said = turn.get("content") or ", ".join(map(json.dumps, turn.get("tool_calls", [])))
        if turn["role"] != "system":
            console.print(f"{turn['role']}: {said}", style="bold" if turn["role"] == "user" else "dim", markup=False)


def _tool_name(tool: dict[str, Any]) -> str:
    name: str = tool.get("function", tool)["name"]
    return name


def _show_answers(console: Console, answers: list[Answer]) -> None:
    from rich import box
    from rich.table import Table

    from .shipped import media

    heard = any(media(given.example, "audio") for given in answers)
    columns = ("task", "", "prompt", "first token", "answer", "tokens/s", *(("real-time factor",) if heard else ()))
    table = Table(*columns, box=box.SIMPLE)
    for given in answers:
        usage = given.usage
        first = "" if usage.time_to_first_token is None else f"{usage.time_to_first_token * 1e3:.1f} ms"
        speed = "" if usage.decode_rate is None else f"{usage.decode_rate:,.0f}"
        verdict = "right" if given.right else "wrong"
        table.add_row(
            given.example.task,
            verdict,
            f"{usage.prompt_tokens} tokens",
            first,
            f"{usage.completion_tokens} tokens",
            speed,
            *((_real_time(given),) if heard else ()),
        )
    console.print(table)
    right = sum(given.right for given in answers)
    console.print(
        f"{right} of {len(answers)} right, on questions that the model was not trained on; "
        f"threads: {answers[-1].usage.threads}, peak memory {_size(answers[-1].usage.peak_memory)}.",
        markup=False,
    )


def _real_time(given: Answer) -> str:
    """Seconds of work for a second of the recording; empty without one."""
    import soundfile

    from .shipped import media

    recordings = media(given.example, "audio")
    if not recordings:
        return ""
    return f"{given.seconds / sum(soundfile.info(path).duration for path in recordings):.3f}"


def _show_next_steps(console: Console, output: Path) -> None:
    console.print(
        f'\nAsk it yourself:        edgephi run {output} "What is 12 + 30?"\n'
        f'With a picture:         edgephi run {output} --image sign.png "What does it say?"\n'
        "A real model needs a real checkpoint, once:\n"
        "                        edgephi export microsoft/Phi-4-mini-instruct -o phi-4-mini\n"
        '                        edgephi run phi-4-mini "Explain RoPE in one line."',
        markup=False,
    )


def _summary(report: ExportReport, verified: Verification, answers: list[Answer]) -> dict[str, object]:
    return {
        "bundle": str(report.bundle),
        "checkpoint_bytes": report.checkpoint_bytes,
        "bundle_bytes": report.bundle_bytes,
        "export_seconds": round(report.seconds, 3),
        "verified": {"files": verified.files, "bytes": verified.nbytes, "stages": len(verified.layers)},
        "right": sum(given.right for given in answers),
        "answers": [
            {
                "task": given.example.task,
                "messages": [dict(turn) for turn in given.example.turns],
                "answer": given.text,
                "expected": given.example.answer,
                "right": given.right,
                "finish_reason": given.finish_reason,
                "usage": dataclasses.asdict(given.usage),
            }
            for given in answers
        ],
    }


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f} MB"

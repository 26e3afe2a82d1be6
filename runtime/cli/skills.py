"""The verbs `edgephi summarize`, `rewrite` and `table`: texts in, results out, one bad file never stops the rest.

Boundary: reads the command line and the files, and writes what the skills make.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import RequestError
from .answering import Waiting, harmless, interruptible, note
from .given_files import STDIN, TEXTS, GivenFile, Target, each_file, find_files, output_path, write_whole
from .run import loaded
from .settings import memory_options

if TYPE_CHECKING:
    from ..session import Session
    from ..skills.asking import Made
    from ..skills.table import Table

# Names of skills.asking.TONES, summarize.FORMS and .LENGTHS, which are slow to import for a --help.
TONES = ("formal", "casual", "friendly", "concise", "plain", "persuasive")
FORMS = ("sentence", "paragraph", "bullets")
LENGTHS = ("short", "medium", "long")
SUFFIXES = {"markdown": ".md", "csv": ".csv"}
TEXT_BYTES = 64 << 20

# Session, text, what is told the result as it is made, what is told of answers → the result.
Skill = Callable[["Session", str, Callable[[str], None], Callable[[int], None]], "Made | Table"]


@dataclass(frozen=True)
class Work:
    """What is to be done with every file, and how it is written: `suffix` of files, `text` of a result."""

    doing: str
    skill: Skill
    suffix: str
    text: Callable[[Any], str]
    shown: bool = True


def shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What all three verbs take: the bundle, the files, where results go and how they are made."""
    options: list[Callable[[Any], Any]] = [
        click.argument("bundle", type=click.Path(path_type=Path)),
        click.argument("files", nargs=-1, metavar="[FILE]..."),
        click.option(
            "-d", "--output-dir", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
            help="Write a file for each FILE into FOLDER instead of printing.",
        ),
        click.option("--beside", is_flag=True, help="Write a file for each FILE into its own folder."),
        click.option("--overwrite", is_flag=True, help="Write over files that are there already."),
        click.option("-c", "--context", "--ctx-size", type=int, metavar="N", help="Longest prompt, in tokens."),
        click.option("-t", "--threads", type=int, metavar="N", help="Default: the physical cores."),
        memory_options,
        click.option("--device", default="cpu", show_default=True, help="What computes."),
        click.option("--adapter", metavar="NAME", help="Write with this adapter of the bundle."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each FILE."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(epilog="\b\nExample:\n  edgephi summarize phi-4-mini report.txt --form bullets\n")
@shared_options
@click.option("--form", type=click.Choice(FORMS), default="paragraph", show_default=True)
@click.option("--length", type=click.Choice(LENGTHS), default="medium", show_default=True)
@click.option("--tone", type=click.Choice(TONES), help="Default: the text's own.")
def summarize(form: str, length: str, tone: str | None, adapter: str | None, **given: Any) -> None:
    """Summarize each FILE, a text of any length; without one, or for "-", what is piped in."""
    from ..skills.summarize import summarize as skill

    def run(session: Session, text: str, show: Callable[[str], None], progress: Callable[[int], None]) -> Made:
        return skill(
            session, text, form=form, length=length, tone=tone, adapter=adapter, show=show, progress=progress
        )

    _work(Work("summarizing", run, ".summary.txt", _text), adapter=adapter, **given)


@click.command(epilog="\b\nExample:\n  edgephi rewrite phi-4-mini --tone formal < letter.txt\n")
@shared_options
@click.option("--tone", type=click.Choice(TONES), help="Default: correct it and make it read well.")
def rewrite(tone: str | None, adapter: str | None, **given: Any) -> None:
    """Rewrite each FILE in another tone; without one, or for "-", what is piped in."""
    from ..skills.rewrite import rewrite as skill

    def run(session: Session, text: str, show: Callable[[str], None], progress: Callable[[int], None]) -> Made:
        return skill(session, text, tone=tone, adapter=adapter, show=show, progress=progress)

    _work(Work("rewriting", run, ".rewritten.txt", _text), adapter=adapter, **given)


@click.command(epilog="\b\nExample:\n  edgephi table phi-4-mini minutes.txt --columns who,what,until -o csv\n")
@shared_options
@click.option("--columns", metavar="NAME,NAME,...", help="Default: the model chooses them.")
@click.option(
    "-o", "--output-format", "form", type=click.Choice(tuple(SUFFIXES)), default="markdown", show_default=True
)
def table(columns: str | None, form: str, adapter: str | None, **given: Any) -> None:
    """Make a table of the facts in each FILE; without one, or for "-", what is piped in."""
    from ..skills.table import WRITERS, make_table

    names = None if columns is None else columns.split(",")

    def run(session: Session, text: str, show: Callable[[str], None], progress: Callable[[int], None]) -> Table:
        return make_table(session, text, columns=names, adapter=adapter, progress=progress)

    work = Work("making a table", run, f".table{SUFFIXES[form]}", WRITERS[form], shown=False)
    _work(work, adapter=adapter, **given)


def _text(made: Made) -> str:
    return f"{made.text.rstrip()}\n"


def _work(
    work: Work, bundle: Path, files: tuple[str, ...], output_dir: Path | None, beside: bool, overwrite: bool,
    context: int | None, threads: int | None, mapped: bool, allow_oversized: bool, device: str, adapter: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    if output_dir is not None and beside:
        raise click.UsageError("--output-dir and --beside exclude each other")
    target = Target(output_dir, beside, overwrite)
    found = find_files(files or (STDIN,), TEXTS, target)
    with loaded(bundle, device, threads, context, mapped, allow_oversized) as session:
        session.require_adapter(adapter)
        several = len(found) > 1
        each_file(
            found, lambda file: _one(session, file, work, target, as_json=as_json, several=several), as_json=as_json
        )


def _one(session: Session, file: GivenFile, work: Work, target: Target, *, as_json: bool, several: bool) -> None:
    """Make and write the result for one file. Raises KeyboardInterrupt at Ctrl-C, after what was made until then."""
    path = None if target.stdout else output_path(file, work.suffix, target)
    text = _read(file)
    printing = path is None and not as_json
    if printing and several:
        click.echo(f"==> {file.name} <==")
    with Waiting(f"{work.doing} {file.name}") as waiting:
        ends_line = True

        def show(piece: str) -> None:
            nonlocal ends_line
            if printing and work.shown and piece:
                waiting.stop()
                _echo(piece)
                ends_line = piece.endswith("\n")

        def progress(answers: int) -> None:
            waiting.say(f"{work.doing} {file.name}: {answers} answers")

        once = (work.skill(session, each, show, progress) for each in [text])
        with interruptible(session, once) as (made, interrupted):
            (result,) = made
    if printing and not work.shown:
        _echo(work.text(result))
    elif printing and not ends_line:
        _echo("\n")
    if path is not None and not interrupted.is_set():
        write_whole(path, work.text(result))
        note(f"wrote {path}")
    if as_json:
        click.echo(json.dumps({"file": file.name, **asdict(result)}, ensure_ascii=False))
    if interrupted.is_set():
        raise KeyboardInterrupt
    if result.finish_reason == "length":
        note(f"({file.name}: an answer was cut by its limit or by the context; the result is not whole)")
    if printing and several:
        click.echo()


def _read(file: GivenFile) -> str:
    """The text of a file: UTF-8, or UTF-16 with its mark. Raises RequestError for what is no text, OSError."""
    source = file.source()
    data = source if isinstance(source, bytes) else source.read_bytes()
    if len(data) > TEXT_BYTES:
        raise RequestError(f"{file.name} has more than {TEXT_BYTES >> 20} MiB: cut it into several files")
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file.name} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise RequestError(f"{file.name} holds zero bytes and so is no text: give a text file")
    return text


def _echo(text: str) -> None:
    click.echo(harmless(text) if sys.stdout.isatty() else text, nl=False, color=True)

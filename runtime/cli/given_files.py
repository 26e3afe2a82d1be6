"""Which files a command line means, and where what is made of each of them goes.

Boundary: names, folders and files; knows nothing of what is in them.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ..errors import NonFiniteLogits, RequestError

STDIN = "-"
STDIN_BYTES = 512 << 20


@dataclass(frozen=True)
class Kind:
    """What the files are, in one word, and the endings that a folder is searched for; a file may have any name."""

    name: str
    suffixes: tuple[str, ...]


RECORDINGS = Kind("recording", (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"))
TEXTS = Kind("text", (".txt", ".md", ".markdown", ".rst", ".csv", ".tsv", ".json", ".log", ".srt", ".vtt"))


@dataclass(frozen=True)
class Target:
    """Where output goes: `folder`, or beside each file, or with neither to stdout."""

    folder: Path | None
    beside: bool
    overwrite: bool

    @property
    def stdout(self) -> bool:
        """Whether no file is written."""
        return self.folder is None and not self.beside


@dataclass(frozen=True)
class GivenFile:
    """One file, `path` None for stdin. `stem` is the path of its output files without their suffixes."""

    name: str
    path: Path | None
    stem: Path | None
    kind: Kind

    def source(self) -> Path | bytes:
        """What a session reads. Raises RequestError for what is piped in."""
        if self.path is not None:
            return self.path
        if sys.stdin is None or sys.stdin.isatty():
            raise RequestError(f"no {self.kind.name} is piped in; give a file, or pipe one into '-'")
        data = sys.stdin.buffer.read(STDIN_BYTES + 1)
        if len(data) > STDIN_BYTES:
            raise RequestError(f"stdin holds more than {STDIN_BYTES >> 20} MiB; save the {self.kind.name} to a file")
        return data


def find_files(given: Sequence[str], kind: Kind, target: Target) -> list[GivenFile]:
    """Expand patterns, which some shells leave to the program, and folders. Raises UsageError where two files would be
    written to the same one.
    """
    found = [file for text in given for file in _expand(text, kind, target)]
    if sum(file.path is None for file in found) > 1:
        raise click.UsageError(f"stdin holds one {kind.name}: give '-' once")
    stems: dict[Path, str] = {}
    for file in found:
        if file.stem in stems:
            raise click.UsageError(
                f"{stems[file.stem]} and {file.name} would both be written to {file.stem}.*; rename one"
            )
        if file.stem is not None:
            stems[file.stem] = file.name
    return found


def each_file(files: Sequence[GivenFile], work: Callable[[GivenFile], None], *, as_json: bool) -> None:
    """Do `work` with every file; one that fails stops no other, and is told on stderr and, with `as_json`, on stdout.

    Raises RequestError naming those that failed; the error itself where there is one file alone.
    """
    failed = []
    for file in files:
        try:
            work(file)
        except BrokenPipeError:
            raise
        except (RequestError, NonFiniteLogits, OSError) as error:
            if len(files) == 1:
                raise
            failed.append(file.name)
            _say_failure(file, error, as_json=as_json)
    if failed:
        raise RequestError(f"{len(failed)} of {len(files)} {files[0].kind.name}s failed: {', '.join(failed)}")


def output_path(file: GivenFile, suffix: str, target: Target) -> Path:
    """The file for one kind of output. Raises RequestError if it is there and must not be written over."""
    assert file.stem is not None
    path = file.stem.with_name(file.stem.name + suffix)
    if file.path is not None and path == file.path:
        raise RequestError(f"{path} is the {file.kind.name} itself; give --output-dir")
    if path.exists() and not target.overwrite:
        raise RequestError(f"{path} is there already; remove it, or give --overwrite")
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _say_failure(file: GivenFile, error: Exception, *, as_json: bool) -> None:
    text = " ".join(str(error).split())
    if file.name not in text:
        text = f"{file.name}: {text}"
    click.echo(f"error: {text}", err=True)
    if as_json:
        click.echo(json.dumps({"file": file.name, "error": text}, ensure_ascii=False))


def _expand(text: str, kind: Kind, target: Target) -> list[GivenFile]:
    if text == STDIN:
        if target.beside:
            raise click.UsageError("what is piped in lies beside nothing: give --output-dir instead of --beside")
        return [GivenFile("stdin", None, None if target.folder is None else target.folder / "stdin", kind)]
    path = Path(text)
    if path.is_dir():
        paths = sorted(each for each in path.iterdir() if each.suffix.lower() in kind.suffixes)
    elif path.exists():
        paths = [path]
    else:
        paths = [Path(each) for each in sorted(glob.glob(text, recursive=True))]
    # What is not there stays, so that the error of reading it names it.
    return [GivenFile(str(each), each, _stem(each, target), kind) for each in paths or [path]]


def _stem(path: Path, target: Target) -> Path | None:
    folder = target.folder if target.folder is not None else path.parent if target.beside else None
    return None if folder is None else folder / path.stem

"""Which recordings a command line means, and where what is written about each of them goes.

Boundary: names, folders and files; knows nothing of what is in them.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ..errors import RequestError

STDIN = "-"
STDIN_BYTES = 512 << 20
# What a folder that is given is searched for; a file that is given may have any name.
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")


@dataclass(frozen=True)
class Target:
    """Where output goes: `folder`, or beside each recording, or with neither to stdout."""

    folder: Path | None
    beside: bool
    overwrite: bool

    @property
    def stdout(self) -> bool:
        """Whether no file is written."""
        return self.folder is None and not self.beside


@dataclass(frozen=True)
class Recording:
    """One recording, `path` None for stdin. `stem` is the path of its output files without their suffixes."""

    name: str
    path: Path | None
    stem: Path | None

    def source(self) -> Path | bytes:
        """What a session reads. Raises RequestError for what is piped in."""
        if self.path is not None:
            return self.path
        if sys.stdin is None or sys.stdin.isatty():
            raise RequestError("no recording is piped in; give a file, or pipe one into '-'")
        data = sys.stdin.buffer.read(STDIN_BYTES + 1)
        if len(data) > STDIN_BYTES:
            raise RequestError(f"stdin holds more than {STDIN_BYTES >> 20} MiB; save the recording to a file")
        return data


def find_recordings(given: Sequence[str], target: Target) -> list[Recording]:
    """Expand patterns, which some shells leave to the program, and folders. Raises UsageError where two recordings
    would be written to the same file.
    """
    found = [recording for text in given for recording in _expand(text, target)]
    if sum(recording.path is None for recording in found) > 1:
        raise click.UsageError("stdin holds one recording: give '-' once")
    stems: dict[Path, str] = {}
    for recording in found:
        if recording.stem in stems:
            raise click.UsageError(
                f"{stems[recording.stem]} and {recording.name} would both be written to {recording.stem}.*; rename one"
            )
        if recording.stem is not None:
            stems[recording.stem] = recording.name
    return found


def output_path(recording: Recording, suffix: str, target: Target) -> Path:
    """The file for one kind of output. Raises RequestError if it is there and must not be written over."""
    assert recording.stem is not None
    path = recording.stem.with_name(recording.stem.name + suffix)
    if recording.path is not None and path == recording.path:
        raise RequestError(f"{path} is the recording itself; give --output-dir")
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


def _expand(text: str, target: Target) -> list[Recording]:
    if text == STDIN:
        if target.beside:
            raise click.UsageError("what is piped in lies beside nothing: give --output-dir instead of --beside")
        return [Recording("stdin", None, None if target.folder is None else target.folder / "stdin")]
    path = Path(text)
    if path.is_dir():
        paths = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    elif path.exists():
        paths = [path]
    else:
        paths = [Path(each) for each in sorted(glob.glob(text, recursive=True))]
    # What is not there stays, so that the error of reading it names it.
    return [Recording(str(each), each, _stem(each, target)) for each in paths or [path]]


def _stem(path: Path, target: Target) -> Path | None:
    folder = target.folder if target.folder is not None else path.parent if target.beside else None
    return None if folder is None else folder / path.stem

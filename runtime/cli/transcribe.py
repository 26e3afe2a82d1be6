"""The verb `edgephi transcribe`: recordings in, text or subtitles out, one bad file never stops the rest.

Boundary: reads the command line and writes what a session makes; which files are meant is given_files.py's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import click

from ..manifest import read_manifest
from .answering import Waiting, harmless, interruptible, note
from .given_files import RECORDINGS, GivenFile, Target, each_file, find_files, output_path, write_whole
from .run import loaded
from .settings import memory_options

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..session import Session
    from ..transcribe import Transcript

T = TypeVar("T")

FORMATS = ("txt", "srt", "vtt", "json")  # subtitles.FORMATS, which is slow to import for a --help
SUBTITLES = ("srt", "vtt")
SUBTITLE_SECONDS = 10.0
MENTIONED = 5
EXAMPLES = """\b
Examples:
  edgephi transcribe phi-4-multimodal talk.mp3
  edgephi transcribe phi-4-multimodal *.wav -o srt -o txt --beside
  edgephi transcribe phi-4-multimodal talk.mp3 --translate en --summarize
"""


@dataclass(frozen=True)
class Wanted:
    """What is to be made of every recording."""

    formats: tuple[str, ...]
    target: Target
    language: str | None
    translate: str | None
    summarize: bool
    chunk_seconds: float
    adapter: str | None
    statistics: bool
    several: bool

    @property
    def shown(self) -> bool:
        """Whether text is printed while it is made."""
        return self.target.stdout and self.formats == ("txt",)


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o", "--output-format", "formats", multiple=True, type=click.Choice(FORMATS),
    help="Default: txt. May be given again where files are written.",
)
@click.option(
    "-d", "--output-dir", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Write FOLDER/NAME.txt, ... instead of printing.",
)
@click.option("--beside", is_flag=True, help="Write NAME.txt, ... into the folder of each recording.")
@click.option("--overwrite", is_flag=True, help="Write over files that are there already.")
@click.option("-l", "--language", metavar="LANGUAGE", help="What is spoken, as 'de' or 'German'.")
@click.option("--translate", metavar="LANGUAGE", help="Write it in this language instead.")
@click.option("--summarize", is_flag=True, help="Add a summary; where files are written, as NAME.summary.txt.")
@click.option(
    "--chunk", type=float, metavar="SECONDS",
    help="Longest segment, 5 to 40; segments end in pauses. Default: 30, for subtitles 10.",
)
@click.option("--adapter", metavar="NAME", help="Write with this adapter of the bundle; a summary is made without.")
@click.option("-t", "--threads", type=int, metavar="N", help="Default: the physical cores.")
@memory_options
@click.option("--device", default="cpu", show_default=True, help="What computes.")
@click.option("--speech-device", metavar="NAME", help="What encodes recordings. Default: as --device, else the CPU.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json: printed, it is an object a line.")
@click.option("--stats", is_flag=True, help="Say on stderr how long it took.")
def transcribe(
    bundle: Path,
    files: tuple[str, ...],
    formats: tuple[str, ...],
    output_dir: Path | None,
    beside: bool,
    overwrite: bool,
    language: str | None,
    translate: str | None,
    summarize: bool,
    chunk: float | None,
    adapter: str | None,
    threads: int | None,
    mapped: bool,
    allow_oversized: bool,
    device: str,
    speech_device: str | None,
    as_json: bool,
    stats: bool,
) -> None:
    """Write down what is said in each FILE: WAV, FLAC, Ogg or MP3 of any length.

    FILE may be a pattern, a folder, or "-" for what is piped in. Times are those of the segments, which end in pauses.
    """
    target = Target(output_dir, beside, overwrite)
    chosen = tuple(dict.fromkeys([*formats, *(["json"] if as_json else [])])) or ("txt",)
    recordings = find_files(files, RECORDINGS, target)
    _check_usage(chosen, target, summarize, len(recordings))
    _check_request(bundle, language, translate)
    seconds = chunk if chunk is not None else SUBTITLE_SECONDS if set(chosen) & set(SUBTITLES) else 30.0
    several = len(recordings) > 1
    wanted = Wanted(chosen, target, language, translate, summarize, seconds, adapter, stats, several)
    as_lines = target.stdout and chosen == ("json",)
    with loaded(bundle, device, threads, None, mapped, allow_oversized, speech_device=speech_device) as session:
        each_file(recordings, lambda recording: _transcribe(session, recording, wanted), as_json=as_lines)


def _check_usage(formats: tuple[str, ...], target: Target, summarize: bool, recordings: int) -> None:
    """Raises UsageError for what cannot go together."""
    subtitles = bool(set(formats) & set(SUBTITLES))
    if target.folder is not None and target.beside:
        raise click.UsageError("--output-dir and --beside exclude each other")
    if target.stdout and len(formats) > 1:
        raise click.UsageError(f"only one of {', '.join(formats)} can be printed; give --output-dir or --beside")
    if target.stdout and subtitles and recordings > 1:
        raise click.UsageError("subtitles of several recordings need files of their own: give --output-dir or --beside")
    if target.stdout and subtitles and summarize:
        raise click.UsageError("subtitles hold no summary; give --output-dir or --beside")


def _check_request(bundle: Path, language: str | None, translate: str | None) -> None:
    """Raises RequestError, BundleError for what no recording can change, before anything is loaded."""
    from ..transcribe import instruct, require_audio

    instruct(language, translate)
    require_audio(read_manifest(bundle))


def _transcribe(session: Session, recording: GivenFile, wanted: Wanted) -> None:
    """Make and write everything that is wanted of one recording."""
    from ..audio_chunks import measure

    suffixes = () if wanted.target.stdout else tuple(f".{name}" for name in wanted.formats)
    if wanted.summarize and not wanted.target.stdout:
        suffixes = (*suffixes, ".summary.txt")
    paths = {suffix: output_path(recording, suffix, wanted.target) for suffix in suffixes}
    source = recording.source()
    # All of it, once: damage shows before the work begins, and how much work it is.
    length = measure(source)
    started = time.monotonic()
    transcript = _made(session, recording, source, wanted, length)
    _note_cuts(recording, transcript)
    if paths:
        _write(transcript, paths)
    elif not wanted.shown:
        _print(recording, transcript, wanted)
    if wanted.statistics:
        spent = time.monotonic() - started
        tokens = sum(each.usage.completion_tokens for each in transcript.segments if each.usage is not None)
        rate = f"{length / spent:.1f} times real time, {tokens} tokens"
        note(f"{recording.name}: {length:.1f} s in {spent:.1f} s, {rate}")


def _made(
    session: Session, recording: GivenFile, source: Path | bytes, wanted: Wanted, length: float
) -> Transcript:
    """The transcript, shown while it is made if it is to be. Raises KeyboardInterrupt at Ctrl-C."""
    from ..transcribe import join_segments, with_summary

    if wanted.shown and wanted.several:
        click.echo(f"==> {recording.name} <==")
    segments = []
    stream = session.stream_transcript(
        source, language=wanted.language, translate=wanted.translate, chunk_seconds=wanted.chunk_seconds,
        adapter=wanted.adapter,
    )
    with Bar(recording.name, length, quiet=wanted.shown and sys.stdout.isatty()) as bar:
        for segment in _until_interrupted(session, stream):
            segments.append(segment)
            if wanted.shown and segment.text:
                bar.clear()
                _show(segment.text)
            bar.reach(segment.end)
    transcript = join_segments(segments, wanted.language, wanted.translate)
    if wanted.summarize:
        with Waiting("summarizing"):
            (transcript,) = _until_interrupted(session, (with_summary(session, each) for each in [transcript]))
        if transcript.finish_reason == "cancelled":
            raise KeyboardInterrupt
        if wanted.shown:
            _show(f"\nSummary:\n{transcript.summary}")
    if wanted.shown and wanted.several:
        click.echo()
    return transcript


def _until_interrupted(session: Session, stream: Iterator[T]) -> Iterator[T]:
    """What `stream` makes. Raises KeyboardInterrupt after what was made last when Ctrl-C came."""
    with interruptible(session, stream) as (made, interrupted):
        yield from made
    if interrupted.is_set():
        raise KeyboardInterrupt


def _write(transcript: Transcript, paths: dict[str, Path]) -> None:
    from ..subtitles import FORMATS as WRITERS

    for suffix, path in paths.items():
        writer = WRITERS.get(suffix.removeprefix("."))
        write_whole(path, f"{transcript.summary}\n" if writer is None else writer(transcript))
        note(f"wrote {path}")


def _print(recording: GivenFile, transcript: Transcript, wanted: Wanted) -> None:
    """Print what could not be shown while it was made."""
    from ..subtitles import FORMATS as WRITERS
    from ..subtitles import to_fields

    (name,) = wanted.formats
    if name == "json":
        click.echo(json.dumps({"file": recording.name, **to_fields(transcript)}, ensure_ascii=False))
    else:
        _show(WRITERS[name](transcript), nl=False)


def _note_cuts(recording: GivenFile, transcript: Transcript) -> None:
    """Say where the model did not come to an end, which the text does not show."""
    cut = [segment for segment in transcript.segments if segment.finish_reason == "length"]
    if cut:
        places = ", ".join(f"{segment.start:.0f}–{segment.end:.0f} s" for segment in cut[:MENTIONED])
        more = f" and {len(cut) - MENTIONED} more" if len(cut) > MENTIONED else ""
        note(f"({recording.name}: the model did not come to an end at {places}{more}; its text there is cut)")


def _show(text: str, *, nl: bool = True) -> None:
    click.echo(harmless(text) if sys.stdout.isatty() else text, nl=nl, color=True)


class Bar:
    """How far a recording is, on a terminal on stderr; `quiet`: its text is coming there already."""

    def __init__(self, name: str, length: float, *, quiet: bool) -> None:
        self._length = length
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._waiting = Waiting(f"listening to {name}") if quiet else None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._task = self._progress.add_task(Path(name).name, total=length)

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        if self._waiting is not None:
            self._waiting.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
        if self._progress is not None:
            self._progress.stop()

    def clear(self) -> None:
        """Make room for text."""
        if self._waiting is not None:
            self._waiting.stop()

    def reach(self, seconds: float) -> None:
        """So much of the recording is done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=min(seconds, self._length))

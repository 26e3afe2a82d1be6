"""The verb `edgephi run`: one answer for a prompt or a pipe, a conversation on a terminal.

Boundary: reads the command line and stdin and decides which of the two it is; answers are shown by answering.py, the
conversation is repl.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import RequestError
from .answering import Finished, Shown, Waiting, answer, interruptible, note, note_end, require_form, statistics
from .form_options import form_options
from .settings import Settings, cache_option, encoder_options, memory_options

if TYPE_CHECKING:
    from ..session import Prompt, Session

STDIN_BYTES = 64 << 20
EXAMPLES = """\b
Examples:
  edgephi run phi-4-mini "Why is the sky blue?"
  edgephi run phi-4-mini "Summarize this." < report.txt
  edgephi run phi-4-multimodal -i sign.jpg -a question.wav "Answer the question about the picture."
  edgephi run phi-4-reasoning-vision -i screen.png --ground "start playback"
  edgephi run phi-4-mini --schema invoice.json "Name, date and total as JSON." < invoice.txt
  edgephi run phi-4-mini --tools tools.json "Turn on the light in the hall."
  edgephi run phi-4-mini
"""


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that end up in Settings."""
    options: list[Callable[[Any], Any]] = [
        click.option("-n", "--max-tokens", type=int, metavar="N", help="Longest answer, in tokens."),
        click.option(
            "--temperature", "--temp", type=float, metavar="T", help="0 is greedy: always the likeliest token."
        ),
        click.option("--top-p", type=float, metavar="P", help="Draw from the likeliest tokens that make up P."),
        click.option("--top-k", type=int, metavar="K", help="Draw from the K likeliest tokens."),
        click.option("--min-p", type=float, metavar="P", help="Leave out tokens below P times the likeliest one."),
        click.option("--repetition-penalty", type=float, metavar="R", help="Above 1: repeat less."),
        click.option("--presence-penalty", type=float, metavar="P", help="-2 to 2: above 0, say what is not said yet."),
        click.option("--frequency-penalty", type=float, metavar="P", help="-2 to 2: above 0, repeat less often."),
        click.option("--seed", type=int, metavar="N", help="Draw the same way every time."),
        click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before TEXT. May be given again."),
        click.option("--think/--no-think", default=None, help="Think before the answer, or not; default: as it likes."),
        click.option("--think-budget", type=int, metavar="N", help="Close a thought after N tokens; 0 is no thought."),
        click.option("--hide-thinking", is_flag=True, help="Show the answer alone."),
        click.option("--adapter", metavar="NAME", help="Answer with this adapter of the bundle."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@click.option("-s", "--system", metavar="TEXT", help="Instructions for the whole conversation.")
@click.option("-i", "--image", "images", multiple=True, metavar="FILE", help="A picture to go with the prompt.")
@click.option("-a", "--audio", "recordings", multiple=True, metavar="FILE", help="A recording to go with the prompt.")
@sampling_options
@form_options
@click.option("-c", "--context", "--ctx-size", type=int, metavar="N", help="Longest conversation, in tokens.")
@click.option("-t", "--threads", type=int, metavar="N", help="Default: the physical cores.")
@memory_options
@cache_option
@click.option(
    "--device", default="cpu", show_default=True,
    help="What computes: cpu, gpu, npu, a name that `edgephi doctor` knows, or auto for the fastest of them."
)
@encoder_options
@click.option("--ground", "as_boxes", is_flag=True, help="Print where in the picture PROMPT is, as JSON with pixels.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it stands: no chat template; control tokens count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when the answer is complete.")
@click.option("--stream-json", is_flag=True, help="Print one JSON object a line for each piece of the answer.")
@click.option("--stats", is_flag=True, help="Say on stderr what the answer cost.")
@click.option("--no-history", is_flag=True, help="Keep nothing of what is typed in a conversation.")
@click.option("--prefix-cache", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep what was read there.")
def run(
    bundle: Path,
    words: tuple[str, ...],
    system: str | None,
    images: tuple[str, ...], recordings: tuple[str, ...],
    context: int | None, threads: int | None,
    mapped: bool, allow_oversized: bool, kv: str,
    device: str, vision_device: str | None, speech_device: str | None,
    as_boxes: bool,
    raw: bool,
    as_json: bool, stream_json: bool, stats: bool,
    no_history: bool,
    prefix_cache: Path | None,
    **sampling: Any,
) -> None:
    """Ask BUNDLE for an answer to PROMPT; without one, start a conversation.

    What is piped in is the prompt, or goes below the prompt that is given. PROMPT "-" reads it from stdin.
    """
    settings = Settings(**sampling)
    text = _prompt_text(words, spoken=bool(recordings))
    if as_json and stream_json:
        raise click.UsageError("--json and --stream-json exclude each other")
    if text is None and (raw or as_json or stream_json):
        raise click.UsageError("a conversation takes none of --raw, --json, --stream-json; give a prompt")
    if raw and (system is not None or images or recordings):
        raise click.UsageError("--raw takes the prompt as it stands: without --system, --image and --audio")
    if as_boxes and (text is None or len(images) != 1 or recordings or system or raw or as_json or stream_json):
        raise click.UsageError("--ground takes PROMPT and one --image, and prints JSON by itself")
    with loaded(
        bundle, device, threads, context, mapped, allow_oversized, prefix_cache,
        vision_device=vision_device, speech_device=speech_device, kv=kv,
    ) as session:
        if text is None:
            from .repl import Repl

            repl = Repl(session, bundle, settings, system=system, statistics=stats, history=not no_history)
            for kind, path in (*(("image", path) for path in images), *(("audio", path) for path in recordings)):
                repl.attach(kind, Path(path))
            repl.talk()
            return
        if as_boxes:
            from .ground import ground

            ground(session, text, images[0], settings, stats=stats)
            return
        prompt = _raw_ids(bundle, text) if raw else _messages(text, system, images, recordings)
        if stream_json:
            _stream_json(session, prompt, settings)
            return
        shown = None if as_json else Shown(thoughts=not settings.hide_thinking)
        finished = answer(session, prompt, settings, show=shown)
        if as_json:
            click.echo(json.dumps(_summary(bundle, finished, settings), ensure_ascii=False))
        note_end(finished)
        if stats:
            note(statistics(finished))
        if finished.interrupted:
            raise KeyboardInterrupt
        require_form(finished.finish_reason, settings)


def loaded(
    bundle: Path, device: str, threads: int | None, context: int | None, mapped: bool, allow_oversized: bool,
    prefix_cache: Path | None = None, *, vision_device: str | None = None, speech_device: str | None = None,
    kv: str = "float",
) -> Session:
    """Load a bundle; a terminal is told when that takes long. Raises what `load` raises."""
    with Waiting(f"loading {bundle.name}"):
        from ..loading import load

        session = load(
            bundle, device=device, vision_device=vision_device, speech_device=speech_device, threads=threads,
            context=context, mapped=mapped, allow_oversized=allow_oversized, prefix_cache=prefix_cache,
            kv=kv,
        )
    if device != session.device:
        note(f"device {session.device}: {session.device_reason}")
    for part, (chosen, reason) in session.encoder_devices.items():
        if chosen != session.device:
            note(f"{part} on {chosen}: {reason}")
    if session.left_to_cpu:
        left = ", ".join(f"{count} {kind}" for kind, count in session.left_to_cpu.items())
        note(f"device {session.device} leaves to the CPU: {left}")
    return session


def _prompt_text(words: tuple[str, ...], *, spoken: bool) -> str | None:
    """The prompt from the command line and from stdin; None where a conversation is to begin.

    Raises RequestError for an empty one, unless the question is `spoken`.
    """
    text = " ".join(words)
    if words == ("-",):
        text = _read_stdin()
    elif sys.stdin is None or sys.stdin.isatty():
        if not words:
            return None
    else:
        piped = _read_stdin()
        text = f"{text}\n\n{piped}" if text and piped.strip() else text or piped
    if not text.strip() and not spoken:
        raise RequestError("the prompt is empty; give one on the command line or pipe some text in")
    return text


def _read_stdin() -> str:
    raw = sys.stdin.buffer.read(STDIN_BYTES + 1)
    if len(raw) > STDIN_BYTES:
        raise RequestError(f"stdin holds more than {STDIN_BYTES} bytes; give the model less to read")
    try:
        return raw.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"stdin is not UTF-8 text (byte 0x{raw[error.start]:02x} at {error.start}); convert it first"
        ) from error


def _messages(
    text: str, system: str | None, images: tuple[str, ...], recordings: tuple[str, ...]
) -> list[dict[str, object]]:
    parts: list[dict[str, str]] = [
        *({"type": "image", "image": path} for path in images),
        *({"type": "audio", "audio": path} for path in recordings),
        *([{"type": "text", "text": text}] if text.strip() else []),
    ]
    user: dict[str, object] = {"role": "user", "content": parts if images or recordings else text}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def _raw_ids(bundle: Path, text: str) -> list[int]:
    from ..tokens import Segment, Tokenizer

    ids = Tokenizer.open(bundle).encode_segments([Segment(text, trusted=True)])
    if not ids:
        raise RequestError("the raw prompt has no tokens; give some text")
    return ids


def _stream_json(session: Session, prompt: Prompt, settings: Settings) -> None:
    stream = session.stream(prompt, **settings.options())
    with interruptible(session, stream) as (pieces, interrupted):
        for piece in pieces:
            if settings.hide_thinking and piece.kind == "thinking" and piece.finish_reason is None:
                continue
            fields = {name: value for name, value in dataclasses.asdict(piece).items() if value is not None}
            click.echo(json.dumps(fields, ensure_ascii=False))
    if interrupted.is_set():
        raise KeyboardInterrupt
    require_form(piece.finish_reason, settings)


def _summary(bundle: Path, finished: Finished, settings: Settings) -> dict[str, object]:
    summary = {"bundle": str(bundle), **dataclasses.asdict(finished)}
    del summary["interrupted"]
    if settings.hide_thinking:
        del summary["thinking"]
    return summary
